"""The times on the page fit together, as their readers find, and its prompts are read as they are in Python."""

import json
import random
import subprocess
from importlib import resources

import needs
from d2o.diffusion.condition import Words

from .offered import examples_of

PROGRAM = """
import { readFileSync } from "node:fs";
const source = readFileSync(process.argv[1], "utf8");
const { compare, time } = await import("data:text/javascript," + encodeURIComponent(source));
const pairs = JSON.parse(readFileSync(0, "utf8"));
console.log(JSON.stringify(pairs.map(([a, b]) => [time(a), time(b), compare(a, b)])));
"""


def on_the_page(pairs, program=PROGRAM):
    """Return what a program makes of pairs: by default both times, as they are shown, and what is said of them."""
    script = resources.files("d2o.pages.play").joinpath("text.js")
    command = [needs.node(), "--input-type=module", "-e", program, str(script)]
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


def test_the_time_of_a_call_times_the_calls_is_that_of_all():
    program = PROGRAM.replace("compare, time", "multiply").replace(
        "[time(a), time(b), compare(a, b)]", "multiply(a, b)"
    )
    choose = random.Random(0)
    pairs = [(choose.randint(1, 79), 10 ** choose.uniform(-1, 6)) for _ in range(500)]
    for (calls, all_of_them), found in zip(pairs, on_the_page(pairs, program), strict=True):
        assert found["each"] * calls == found["all"] and abs(found["all"] / all_of_them - 1) < 0.0051


def test_prompts_are_read_as_in_python():
    reader = Words(("a", "größe", "red", "x2", "日本"), 4, ("a",))
    program = PROGRAM.replace("compare, time", "readWords").replace(
        "[time(a), time(b), compare(a, b)]", "readWords(a, { known: new Map(b), length: 4 })"
    )
    known = list(reader.numbers.items())
    prompts = ["A red, x2!", "RED_red zzz zzz-y", "größe Größe GRÖSSE", "日本 日本語", "", "a-a'a", "²red ½ a"]
    for prompt, found in zip(prompts, on_the_page([(prompt, known) for prompt in prompts], program), strict=True):
        assert found["numbers"] == reader([prompt])[0].tolist() and found["unknown"] == reader.unknown(prompt), prompt


def test_styles_are_words_that_only_begin_many_of_the_prompts():
    program = PROGRAM.replace("compare, time", "findStyles").replace(
        "[time(a), time(b), compare(a, b)]", "findStyles(a)"
    )
    names = ["red heart", "pizza", "flag chad", "red car", "woman judge", "cat"]
    styled = [f"{style} {name}" for name in names for style in ("noto", "fluent")] + names
    shapes = examples_of("shapes-small")
    assert on_the_page([(styled, 0), (names, 0), (shapes, 0), ([], 0)], program) == [["noto", "fluent"], [], [], []]


def test_of_nothing_there_is_no_ratio():
    assert [said for *_, said in on_the_page([(5, 0), (0, 0)])] == ["", ""]
