"""Unit tests of the pure parts: python3 -m unittest discover -s scripts/compare"""

import argparse
import re
import tempfile
import unittest
import unittest.mock
import xml.dom.minidom
from pathlib import Path

import costs
import optimisations
import machine
import pages
import performance
import report
from compare import in_turn
from plot import DARK, LABEL_GAP, PANEL, STYLES, Panel, Point, svg
from programs import Floor, Ports, Statsring


def row(program, round_, cost, load="l", **more):
    return {"load": load, "program": program, "round": round_, "us_per_received": cost} | more


class Ratios(unittest.TestCase):
    def test_ratios_are_per_round(self):
        # The second round was twice as slow for both: per-round ratios are equal, a ratio of medians is not.
        rows = [row("statsring", 0, 1.0), row("p", 0, 10.0), row("statsring", 1, 2.0), row("p", 1, 20.0),
                row("statsring", 2, 1.0)]
        self.assertEqual(report.ratio(rows, "l", "p", "statsring"), {"median": 10.0, "least": 10.0, "most": 10.0})
        self.assertIsNone(report.ratio(rows, "l", "p", "absent"))

    def test_targets_report_failures(self):
        load = "20,000/s, 1 metric each"
        rows = [row("statsring", 0, 1.5, load), row("proxy.js", 0, 30.0, load), row("receive floor", 0, 1.0, load)]
        found = report.targets({"tables": {"default": rows}})
        self.assertEqual([(entry["against"], entry["met"]) for entry in found],
                         [("proxy.js", True), ("receive floor", False)])

    def test_equal_latency_has_a_table_only_if_both_were_measured(self):
        rows = [row(report.PROMPT, 0, 3.0, p50_us=40, p99_us=90), row(report.PROMPT_PEER, 0, 4.0, p50_us=50, p99_us=80)]
        text = report.latency_table({"tables": {"default": [], "equal": rows}})
        self.assertIn("| l | 0.75 (0.75 to 0.75) | 3.00 µs | 0.04 / 0.09 | 4.00 µs | 0.05 / 0.08 |", text)
        self.assertEqual(report.latency_table({"tables": {"equal": rows[:1]}}), "")

    def test_losses_are_not_rounded_away(self):
        self.assertEqual(report.worst({"least": 1.0}), "all")
        self.assertEqual(report.worst({"least": 0.99999996}), "0.999999")
        self.assertEqual(report.as_fraction(1 / 15), "1/15")
        self.assertEqual(report.as_fraction(1 / 15.04), "1/15")
        self.assertEqual(report.as_fraction(1 / 100), "1/100")
        self.assertEqual(report.as_fraction(1.25), "1.25")

    def test_a_program_that_forwards_nothing_has_a_row(self):
        rows = [row("statsring", 0, 1.0, delivered=1.0), row("receive floor", 0, 0.5), {
            "load": "l", "program": report.DIRECT, "round": 0, "p50_us": 4, "p99_us": 9}]
        text = report.detail_table(report.summarize(rows)) + report.ratio_table(report.summarize(rows))
        self.assertIn("| l | receive floor |", text)
        self.assertIn("2.00 (2.00 to 2.00)", text)
        self.assertIn("| statsring / receive floor |", text)
        self.assertNotIn("forward floor", text)

    def test_both_floors_have_ratios_and_only_one_has_backends(self):
        rows = [row("statsring", 0, 3.0), row("receive floor", 0, 1.0), row("forward floor", 0, 2.0)]
        text = report.ratio_table(report.summarize(rows))
        self.assertIn("| statsring / receive floor | statsring / forward floor |", text)
        self.assertIn("| 3.00 (3.00 to 3.00) | 1.50 (1.50 to 1.50) |", text)
        ports = Ports(1, 2, [3, 4], [])
        self.assertFalse(Floor("f").forwards)
        self.assertTrue(Floor("f", blindly=True).forwards)
        self.assertEqual(Floor("f", blindly=True).command(ports, None, 2_000)[1:],
                         ["--listen", "127.0.0.1:1", "--to", "127.0.0.1:3", "--to", "127.0.0.1:4", "--receive-buffer", "1000"])


class Turns(unittest.TestCase):
    def test_each_begins_once_and_the_floors_follow_statsring(self):
        members = [Statsring("statsring"), Floor("floor"), Floor("forward", blindly=True), Statsring("a"), Statsring("b")]
        orders = [[program.name for program in in_turn(members, round_)] for round_ in range(3)]
        self.assertEqual(orders, [["statsring", "floor", "forward", "a", "b"], ["a", "b", "statsring", "floor", "forward"],
                                  ["b", "statsring", "floor", "forward", "a"]])
        self.assertEqual([program.name for program in in_turn([members[1]], 1)], ["floor"])


class Plot(unittest.TestCase):
    def test_svg_is_well_formed_and_labels_do_not_overlap(self):
        names = ["statsring", "proxy.js", "a", "b", "c", "<d>"]
        series = {name: [Point(1e4, 1, 1, 1), Point(4e5, 1 - i * 0.001, 0.5, 1)] for i, name in enumerate(names)}
        text = svg(series, series, "t & t", "rate", ["a note " * 40])
        document = xml.dom.minidom.parseString(text)
        ends = {}
        for element in document.getElementsByTagName("text"):
            name = element.firstChild.data
            if name in names:
                ends.setdefault(name, []).append(float(element.getAttribute("y")))
        heights = sorted(ys[0] for ys in ends.values())
        self.assertEqual(len(heights), len(names))
        self.assertTrue(all(b - a >= LABEL_GAP - 0.1 for a, b in zip(heights, heights[1:])), heights)

    def test_labels_stay_within_the_panel(self):
        panel = Panel(100, "t", 0, 1, [], (1e4, 1e5))
        series = {name: [Point(1e5, 0, 0, 0)] for name in "abc"}
        labels = "".join(panel.labels(series, {name: ("#000", "circle", "") for name in series}))
        for index in range(3):
            self.assertIn(f'y="{100 + PANEL + 4 - index * LABEL_GAP:.1f}"', labels)

    def test_every_colour_has_a_dark_counterpart(self):
        series = {name: [Point(1e4, 0, 0, 0), Point(2e4, 0.5, 0.4, 0.6)] for name in [*STYLES, "a", "b", "c"]}
        text = svg(series, series, "t", "rate", ["note"])
        style, drawn = text.split("</style>")
        colours = set(re.findall(r"#[0-9a-f]{6}", drawn))
        self.assertEqual(colours - set(DARK), set())
        self.assertTrue(all(f'[fill="{colour}"]' in style for colour in colours))


def case_row(series, case, round_, ns, **more):
    return {"load": series, "program": case, "round": round_, "ns_per_metric": ns, "us_per_received": ns / 10,
            "metrics_per_packet": 30.0, "switches_per_second": 200.0, "delivered": 1.0, "p99_us": 5100,
            "foreign_share": 0.0} | more


def made(**more):
    return {"machine": "M, Linux 6", "date": "2026-01-01", "command": "scripts/x.sh", "statsring": "0.1.0", "runs": 2,
            "seconds": 1.0, "warm_up": 1.0, "cores": "0,1", "in_process": {}} | more


class Costs(unittest.TestCase):
    def run_of(self, curve, costs, **figures):
        rows = [case_row(curve.title, str(value), round_, cost * (1 + round_), **{k: f(value) for k, f in figures.items()})
                for value, cost in costs.items() for round_ in range(2)]
        return made(rows=rows)

    def test_cost_per_datagram_is_fitted(self):
        curve = costs.CURVES["metrics"]
        run = self.run_of(curve, {n: 100 + 600 / n for n in curve.values})
        # Two rounds, the second twice as slow: medians are 1.5 times the cost.
        self.assertIn("900 ns for a datagram", costs.reason(run, curve))
        self.assertIn("150 ns for each metric", costs.reason(run, curve))
        self.assertIn("| 50 | 168 (112 to 224) | 0.16 (0.16 to 0.16) |", costs.markdown(run))

    def test_cost_per_packet_is_fitted(self):
        curve = costs.CURVES["nodes"]
        filled = {n: 30 / n for n in curve.values}
        run = self.run_of(curve, {n: 50 + 1_000 / filled[n] for n in curve.values}, metrics_per_packet=filled.get)
        self.assertIn("1,500 ns for each packet sent and 75 ns for each metric", costs.reason(run, curve))

    def test_flat_curves_are_reported_and_missing_ones_omitted(self):
        curve = costs.CURVES["names"]
        run = self.run_of(curve, {n: 100 + n / 1e6 for n in curve.values})
        self.assertEqual(costs.reason(run, curve), "Flat: the medians differ by no more than 10%.")
        self.assertNotIn("### Nodes", costs.markdown(run))

    def test_thinning_keeps_both_ends_and_the_base(self):
        for curve in costs.CURVES.values():
            for points in (2, 3, 5):
                values = costs.thinned(curve, points)
                self.assertTrue({curve.values[0], curve.values[-1], curve.base} <= set(values), values)
                self.assertLessEqual(len(values), points + 1)


class Optimisations(unittest.TestCase):
    def test_gains_are_per_round(self):
        optimisation = optimisations.OPTIMISATIONS["gso"]
        rows = [case_row(optimisation.name, case, round_, ns * (1 + round_))
                for case, ns in ((optimisations.WITH, 100), (optimisations.WITHOUT, 160)) for round_ in range(2)]
        figures = {"median": 1.5, "least": 1.4, "most": 1.6}
        inside = {optimisations.BENCH: {"scanner AVX2": figures, "cacheSize 0 1000": figures}}
        text = optimisations.markdown(made(rows=rows, in_process=inside))
        self.assertIn("| 1.60 (1.60 to 1.60) |", text)
        self.assertIn("| scanner AVX2 | 1.5 (1.4 to 1.6) |", text)
        self.assertIn("| cacheSize 0, 1,000 nodes | 1.5 (1.4 to 1.6) |", text)


class Promises(unittest.TestCase):
    def test_every_promise_is_checked(self):
        load = "20,000/s, 1 metric each"
        own = row("statsring", 0, 1.0, load, delivered=0.999999, p99_us=7_100, resident_kib=17_000)
        beside = {"load": load, "program": report.DIRECT, "round": 0, "p99_us": 90}
        found = report.promises({"tables": {"default": [own, beside]}, "idle": {"statsring": {"wake_ups_per_second": 2.9}}})
        self.assertEqual([(entry["what"], entry["met"]) for entry in found],
                         [("delivered", False), ("p99 latency", False), ("resident memory", False), ("idle", True)])
        self.assertIn("without a proxy 0.09 ms", report.promise_table(found))


class Pages(unittest.TestCase):
    def comparison(self):
        rows = [row("statsring", 0, 1.0, delivered=1.0, foreign_share=0.0, us_per_sent=1.0),
                row("proxy.js", 0, 20.0, delivered=0.62, foreign_share=0.0, us_per_sent=20.0)]
        return made(tables={"default": rows}, programs=[], missing=[], receive_default=212_992, failed=[
            {"load": "l", "name": "p", "why": "p exited:\n/a/local/path"}])

    def test_the_readme_section_replaces_the_text_between_its_markers(self):
        with tempfile.TemporaryDirectory() as folder:
            readme = Path(folder) / "README.md"
            readme.write_text(f"before\n{pages.BEGIN}old\n{pages.END}after\n")
            text = pages.readme_section({"compare": self.comparison()}, "scripts/performance.sh", Path(folder) / "docs/src/performance",
                                        Path(folder))
            pages.put_section(readme, text)
            page = readme.read_text()
            self.assertTrue(page.startswith("before\n") and page.endswith("after\n") and "old" not in page)
            self.assertIn("| l | 1 (1.00 µs) | 20.0 × (62.0% arrived) |", page)
            self.assertIn("(docs/src/performance/report.md)", page)
            readme.write_text("no markers")
            with self.assertRaises(machine.Failure):
                pages.put_section(readme, text)

    def test_the_report_names_builds_but_no_local_paths(self):
        found = {"compare": self.comparison()}
        notes = {"compare": {"date": "d", "took_s": 61, "build": "b"}, "costs": {"build": "other"}}
        text = pages.report_page(found, notes, "scripts/performance.sh --quick") + str(pages.figures(found, notes, "c"))
        self.assertIn("not measured with the same build", text)
        self.assertIn("Not measured: load-curve, burst, costs, optimisations.", text)
        self.assertNotIn("/a/local/path", text)

    def test_the_command_line_omits_output_options(self):
        with unittest.mock.patch("sys.argv", ["x", "--runs", "2", "--json", "/a/b", "--svg=/c", "--cores", "0,1"]):
            self.assertEqual(machine.command_line("x.sh"), "scripts/x.sh --runs 2 --cores 0,1")


class Resuming(unittest.TestCase):
    def test_finished_steps_are_kept_and_interrupted_ones_are_not(self):
        step = performance.STEPS[0]
        with tempfile.TemporaryDirectory() as folder:
            options = argparse.Namespace(state=Path(folder))
            (options.state / (step.files[0] + ".part")).write_text("{")
            self.assertFalse(performance.is_done(step, options))
            self.assertEqual(performance.results(options), {})
            (options.state / step.files[0]).write_text("{}")
            self.assertEqual(performance.results(options), {step.name: {}})


if __name__ == "__main__":
    unittest.main()
