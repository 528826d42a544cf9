"""The times on the page: how many times as long the teacher takes is the ratio of the two numbers beside each other."""

import json
import random
import subprocess
from importlib import resources

import needs

PROGRAM = """
import { readFileSync } from "node:fs";
const source = readFileSync(process.argv[1], "utf8");
const { compare, time } = await import("data:text/javascript," + encodeURIComponent(source));
const pairs = JSON.parse(readFileSync(0, "utf8"));
console.log(JSON.stringify(pairs.map(([a, b]) => [time(a), time(b), compare(a, b)])));
"""


def on_the_page(pairs):
    """Return both times, as they are shown, and what is said of them."""
    script = resources.files("d2o.pages.play").joinpath("text.js")
    command = [needs.node(), "--input-type=module", "-e", PROGRAM, str(script)]
    done = subprocess.run(command, input=json.dumps(pairs), capture_output=True, text=True, timeout=60, check=True)
    return json.loads(done.stdout)


def read(shown):
    """Return the milliseconds that a reader sees."""
    number, unit = shown.split()
    return float(number.replace(",", "")) * {"ms": 1, "s": 1000}[unit]


def test_the_ratio_is_that_of_the_times_beside_it():
    choose = random.Random(0)
    edges = [0.04, 0.96, 0.999, 1, 5.45, 9.96, 19.96, 20, 99.5, 999.5, 9999.4, 9999.6, 10_049.9, 12_349, 3_600_000]
    pairs = [(a, b) for a in edges for b in edges]
    pairs += [(10 ** choose.uniform(-1, 6), 10 ** choose.uniform(-1, 4)) for _ in range(5000)]
    for (a, b), (long, short, said) in zip(pairs, on_the_page(pairs), strict=True):
        ratio = read(long) / read(short)
        assert abs(read(long) - a) <= 0.05 * a, (a, long)
        number, words = said.split(" ", 1)
        assert words == "times as long"
        assert abs(float(number) - ratio) <= (0.0501 if ratio < 10 else 0.501), (a, b, long, short, said)


def test_of_nothing_there_is_no_ratio():
    assert [said for *_, said in on_the_page([(5, 0), (0, 0)])] == ["", ""]
