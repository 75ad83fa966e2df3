"""A deterministic program for PyPI's `datadog`, its DogStatsd client: the same datagrams each time it runs.

In: host, port, mode. Out: datagrams. Clock and random numbers are fixed, so that timers and sample rates repeat.
"""

import itertools
import random
import sys
import time

import datadog.dogstatsd.context
from datadog.dogstatsd import DogStatsd

NAMES = 200
PAUSE_EVERY, PAUSE_S = 10, 0.001
NEVER_S = 3600
THEN = 1_700_000_000


def hold_clock():
    ticks = itertools.count()
    datadog.dogstatsd.context.monotonic = lambda: next(ticks) * 0.0375


def each_metric(client, number):
    tags = [f"shard:{number % 5}", "url:http://host:80/a|b", "plain"]
    name = f"shop.{number}.orders"
    client.increment(name)
    client.increment(name, number, tags=tags, sample_rate=0.5)
    client.decrement(name, 2, tags=["größe:ü"])
    client.count(f"{name}.größe.日本", number, tags=tags)
    client.count_with_timestamp(name, 7, THEN + number, tags=tags)
    client.gauge(f"pool.{number}", number / 3, tags=tags, cardinality="low")
    client.gauge(f"pool.{number}", -1.5, sample_rate=0.75)
    client.gauge_with_timestamp(f"pool.{number}", 12, THEN, tags=tags)
    client.histogram(f"size.{number}", 1445, tags=tags)
    client.histogram(f"size.{number}", 0.25, sample_rate=0.5)
    client.distribution(f"latency.{number}", number * 0.1, tags=tags)
    client.timing(f"query.{number}", 320.5, tags=tags, sample_rate=0.9)
    client.set(f"users.{number}", f"user:{number % 7}", tags=tags)
    with client.timed(f"block.{number}", tags=tags):
        pass
    with client.distributed(f"block.{number}.d", use_ms=True):
        pass

    @client.timed(f"call.{number}")
    def timed():
        return number

    timed()


def each_event(client, number):
    client.event(f"deploy {number}", "version 2\nis out", alert_type="info", tags=["env:prod", "a:b:c"])
    client.event(
        f"größe: {number} | übertragen", "text with | and : in it", alert_type="error", aggregation_key=f"key{number}",
        source_type_name="app", date_happened=THEN, priority="low", hostname="host.example", tags=["env:prod"])
    client.service_check(f"disk.{number}", DogStatsd.OK)
    client.service_check(
        f"redis {number}", DogStatsd.CRITICAL, tags=["env:prod", "x:y"], timestamp=THEN, hostname="host.example",
        message=f"timed out:\n10s m:{number}")


def make(host, port, mode):
    options = {
        # Buffers are flushed explicitly, never by time.
        "flush_interval": NEVER_S,
        "disable_telemetry": True,
        "disable_aggregation": True,
        "disable_buffering": mode == "single",
        "origin_detection_enabled": False,
    }
    if mode == "telemetry":
        # Telemetry after each datagram.
        options |= {"disable_telemetry": False, "telemetry_min_flush_interval": -1, "container_id": "ci-1234abcd"}
    if mode == "aggregated":
        options |= {"disable_aggregation": False, "max_metric_samples_per_context": 3}
    return DogStatsd(
        host=host, port=port, namespace="dd", constant_tags=["service:shop", "version:1.2"], **options)


def main():
    host, port, mode = sys.argv[1], int(sys.argv[2]), sys.argv[3]
    random.seed(20)
    hold_clock()
    client = make(host, port, mode)
    if mode == "background":
        client.enable_background_sender()
    for number in range(NAMES):
        each_metric(client, number)
        each_event(client, number)
        if number % PAUSE_EVERY == 0:
            if mode == "aggregated":
                client.flush_aggregated_metrics()
            client.flush()
            time.sleep(PAUSE_S)
    # A batch in addition to the client's buffer.
    with client as batch:
        for number in range(100):
            batch.gauge(f"batch.{number}", number)
    if mode == "background":
        client.flush()
        client.wait_for_pending()
    client.stop()


main()
