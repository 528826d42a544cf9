"""Seconds to a given quality: first marks, lower bounds of what was stopped, medians and ratios over seeds."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
from time_to_quality import summarise

TARGET = {"lite2": 0.4, "classifier": 0.01}


def marks(*rows):
    """Return marks of (seconds, KID in lite2, KID by the classifier), a thousand images each."""
    return [
        {"images": 1000 * k, "seconds": seconds, "kid": {"lite2": one, "classifier": other}}
        for k, (seconds, one, other) in enumerate(rows, 1)
    ]


def seed(number, best, v010, plain):
    return {"seed": number, "target": TARGET, "marks": {"best": best, "v010": v010, "plain": plain}}


def test_the_first_mark_that_is_near_in_all_spaces_counts():
    best = marks((10, 0.3, 0.5), (20, 0.5, 0.005), (30, 0.4, 0.01), (40, 0.1, 0.001))
    rows = [seed(0, best, marks((20, 1, 1), (60, 0.2, 0.01)), marks((50, 1, 1), (120, 0.9, 0.5)))]
    found = summarise(rows)
    assert found["seconds"] == {"plain": 120, "v010": 60, "best": 30}
    assert found["images"] == {"plain": 2000, "v010": 2000, "best": 3000}
    assert found["seeds_that_reached_it"] == {"plain": 0, "v010": 1, "best": 1}
    assert found["ratio"] == {"to_plain": 0.25, "to_v010": 0.5}
    assert found["in_one_space"]["lite2"]["seconds"]["best"] == 10
    assert found["in_one_space"]["classifier"]["seconds"]["best"] == 20
    assert found["final_kid"]["v010"] == {"lite2": 0.2, "classifier": 0.01}


def test_ratios_are_medians_of_seeds_with_their_range():
    rows = [seed(k, marks((best, 0, 0)), marks((40, 0, 0)), marks((100, 0, 0))) for k, best in enumerate((10, 30, 20))]
    found = summarise(rows)
    assert found["seeds"] == [0, 1, 2]
    assert found["ratio"]["to_v010"] == pytest.approx(0.5)
    assert found["ratio_range"]["to_v010"] == [0.25, 0.75]


def test_a_ratio_is_unknown_where_the_best_way_did_not_arrive():
    found = summarise([seed(0, marks((10, 0.1, 1)), marks((40, 0, 0)), marks((100, 0, 0)))])
    assert found["ratio"] == {"to_plain": None, "to_v010": None}
    assert found["in_one_space"]["lite2"]["ratio"] == {"to_plain": 0.1, "to_v010": 0.25}


def test_nothing_measured_is_told():
    assert summarise([])["seconds"] == {}
