"""Tests of what is pure here: python3 -m unittest discover -s scripts/compare"""

import unittest
import xml.dom.minidom

import report
from compare import in_turn
from plot import LABEL_GAP, Panel, Point, svg
from programs import Floor, Statsring


def row(program, round_, cost, load="l", **more):
    return {"load": load, "program": program, "round": round_, "us_per_received": cost} | more


class Ratios(unittest.TestCase):
    def test_ratios_are_of_pairs(self):
        # The second round was twice as slow for both: the ratio is the same, a ratio of medians would not be.
        rows = [row("statsring", 0, 1.0), row("p", 0, 10.0), row("statsring", 1, 2.0), row("p", 1, 20.0),
                row("statsring", 2, 1.0)]
        self.assertEqual(report.ratio(rows, "l", "p", "statsring"), {"median": 10.0, "least": 10.0, "most": 10.0})
        self.assertIsNone(report.ratio(rows, "l", "p", "absent"))

    def test_targets_say_what_is_not_met(self):
        load = "20,000/s, 1 metric each"
        rows = [row("statsring", 0, 1.5, load), row("proxy.js", 0, 30.0, load), row("discard floor", 0, 1.0, load)]
        found = report.targets({"tables": {"default": rows}})
        self.assertEqual([(entry["against"], entry["met"]) for entry in found],
                         [("proxy.js", True), ("discard floor", False)])

    def test_a_loss_is_never_rounded_away(self):
        self.assertEqual(report.worst({"least": 1.0}), "all")
        self.assertEqual(report.worst({"least": 0.99999996}), "0.999999")
        self.assertEqual(report.as_fraction(1 / 15), "1/15")
        self.assertEqual(report.as_fraction(1 / 15.04), "1/15")
        self.assertEqual(report.as_fraction(1 / 100), "1/100")
        self.assertEqual(report.as_fraction(1.25), "1.25")

    def test_a_program_that_delivers_nothing_has_a_line(self):
        rows = [row("statsring", 0, 1.0, delivered=1.0), row("discard floor", 0, 0.5), {
            "load": "l", "program": report.DIRECT, "round": 0, "p50_us": 4, "p99_us": 9}]
        text = report.detail_table(report.summarize(rows)) + report.ratio_table(report.summarize(rows))
        self.assertIn("| l | discard floor |", text)
        self.assertIn("2.00 (2.00 to 2.00)", text)


class Turns(unittest.TestCase):
    def test_each_begins_once_and_the_floor_follows_statsring(self):
        members = [Statsring("statsring"), Floor("floor"), Statsring("a"), Statsring("b")]
        orders = [[program.name for program in in_turn(members, round_)] for round_ in range(3)]
        self.assertEqual(orders, [["statsring", "floor", "a", "b"], ["a", "b", "statsring", "floor"],
                                  ["b", "statsring", "floor", "a"]])
        self.assertEqual([program.name for program in in_turn([members[1]], 1)], ["floor"])


class Plot(unittest.TestCase):
    def test_it_is_well_formed_and_labels_stay_apart(self):
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

    def test_a_label_never_leaves_the_panel_below(self):
        panel = Panel(100, "t", 0, 1, [], (1e4, 1e5))
        series = {name: [Point(1e5, 0, 0, 0)] for name in "abc"}
        words = "".join(panel.labels(series, {name: ("#000", "circle", "") for name in series}))
        self.assertIn('y="354.0"', words)
        self.assertIn('y="324.0"', words)


if __name__ == "__main__":
    unittest.main()
