"""Names and lines of all kinds, each with a number at its end that identifies it.

In: a count. Out: lines as bytes, the same each time. Next: traffic.py sends them.
"""

import random

WORDS = (
    "api", "db", "größe", "zähler", "日本", "метрика", "🦀", "e\u0301", "requests", "latency", "a b", "tag;x=1", "\U0010ffff")
# proxy.js takes the bytes before the first `:`, or the whole line, and forwards everything.
FORMS = (
    "{name}:1|c|i{number}", "{name}:1|c|@0.1|#a:b,i{number}", "{name}:320|ms:12|ms|i{number}", "{name}:+5|g|i{number}",
    "{name}:user|s|i{number}", "{name}.i{number}", "_e{{5,4}}:title|text {number}", "_e{{{number},4}}:title|i{number}",
    "_sc|check {number}|0|m:late, i{number}", ":1|c|i{number}", "{name}:{number}",
)
PLAIN = FORMS[0]


def make(count, chance):
    """`count` lines; three of four are plain metrics with different names."""
    lines = []
    for number in range(count):
        name = ".".join([chance.choice(WORDS), chance.choice(WORDS), str(number), chance.choice(WORDS)][chance.randrange(2):])
        form = PLAIN if chance.randrange(4) else chance.choice(FORMS)
        lines.append(form.format(name=name, number=number).encode())
    return lines


def wild(count, first, chance):
    """Metrics whose names are not UTF-8."""
    lines = []
    for number in range(first, first + count):
        name = f"{chance.choice(WORDS)}.{number}".encode()
        cut = chance.randrange(len(name) + 1)
        strange = bytes(chance.randrange(128, 256) for _ in range(1 + chance.randrange(6)))
        lines.append(name[:cut] + strange + name[cut:] + b":1|c|i%d" % number)
    return lines


def number_of(line):
    """The number at the end of a line."""
    return int(line[len(line.rstrip(b"0123456789")):])


def chance_of(seed):
    return random.Random(seed)
