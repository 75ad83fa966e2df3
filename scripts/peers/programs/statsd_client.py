"""A deterministic program for PyPI's `statsd`: the same datagrams each time it runs.

In: host, port, mode. Out: datagrams. Clock and random numbers are fixed, so that timers and sample rates repeat.
"""

import datetime
import itertools
import random
import sys
import time

import statsd
import statsd.client.timer

NAMES = 250
PAUSE_EVERY, PAUSE_S = 20, 0.001


def hold_clock():
    ticks = itertools.count()
    statsd.client.timer.time_now = lambda: next(ticks) * 0.0375


def each_call(client, number):
    """Calls every function of the client once."""
    name = f"shop.{number}.orders"
    client.incr(name)
    client.incr(name, number, rate=0.5)
    client.decr(name, 3)
    client.gauge(f"pool.{number}.size", number)
    client.gauge(f"pool.{number}.size", -number - 1)
    client.gauge(f"pool.{number}.size", 5, delta=True)
    client.gauge(f"pool.{number}.size", -5, delta=True)
    client.gauge(f"pool.{number}.size", -2.5, rate=0.5)
    client.set(f"users.{number}", f"user{number % 7}")
    client.set(f"users.{number}", number)
    client.timing(f"db.{number}.query", 320)
    client.timing(f"db.{number}.query", datetime.timedelta(seconds=0.125), rate=0.75)
    with client.timer(f"db.{number}.block"):
        pass

    @client.timer(f"db.{number}.call", rate=0.9)
    def timed():
        return number

    timed()


def main():
    host, port, mode = sys.argv[1], int(sys.argv[2]), sys.argv[3]
    random.seed(20)
    hold_clock()
    options = {"prefix": "py", "ipv6": ":" in host}
    if mode == "large":
        options |= {"maxudpsize": 8000, "prefix": None}
    client = statsd.StatsClient(host, port, **options)
    for number in range(NAMES):
        if mode == "single":
            each_call(client, number)
        else:
            # A pipeline splits at maxudpsize; a nested one is sent through the outer one.
            with client.pipeline() as pipe:
                for further in range(4):
                    each_call(pipe, number * 4 + further)
                with pipe.pipeline() as inner:
                    inner.incr(f"inner.{number}")
                    inner.timing(f"inner.{number}.t", 1.5)
        if number % PAUSE_EVERY == 0:
            time.sleep(PAUSE_S)
    client.close()


main()
