"""Judges at equal seconds: what a sweep varies, whose turn it is, what a killed one does again, and its verdicts."""

import json
import sys
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
import own_features as sweep  # type: ignore[import-not-found]
from cifar10_study import Study  # type: ignore[import-not-found]
from own_features_report import FIXED, PROJECTED, Found, find, write  # type: ignore[import-not-found]
from study_records import Records  # type: ignore[import-not-found]
from study_rows import TRIAL_SEED  # type: ignore[import-not-found]

from d2o.checkpoints import load
from d2o.discriminators.own_features import explore, find_taps
from d2o.training.recipe import to_dict
from d2o.training.recipes import RECIPES

CASES = (sweep.DIGITS, sweep.CIFAR10)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_a_setting_changes_what_it_names_and_its_taps_are_there(case):
    teacher = load(str(case.size.teacher))
    maps, seen = explore(teacher), set()
    usual = to_dict(case.recipe("noise of a middle level"))
    for setting, changed in case.settings.items():
        recipe = case.recipe(setting)
        seen.add(json.dumps(to_dict(recipe)))
        if setting != PROJECTED:
            find_taps(recipe.discriminator.taps, teacher.backbone, maps)
            differs = {key for key, value in to_dict(recipe).items() if value != usual[key]}
            assert differs == {path.partition(".")[0] for path in changed}
    assert len(seen) == len(case.settings)
    theirs = RECIPES[f"{case.recipes}-d2o-f"]
    assert replace(case.recipe(PROJECTED), duration=theirs.duration) == theirs


def test_the_defaults_fit_into_an_hour_of_one_core():
    total = 0.0
    for case, examination in zip(CASES, (2, 8), strict=True):
        assert len(case.size.seeds) == 3
        finals = len(case.size.seeds) * (1 + sweep.FINALISTS)
        total += len(case.settings) * (case.seconds + examination) + finals * (case.final_seconds + 2 * examination)
    assert total <= 3600


@dataclass
class Quick:
    """A contender whose iterations take so many seconds, and whose rate is constant."""

    cost: float
    recipe: Any = field(default_factory=lambda: SimpleNamespace(batch_size=4, learning_rate_decay="constant"))
    seconds: float = 0.0
    images: int = 0
    is_done: bool = False
    marks: list[dict[str, Any]] = field(default_factory=list)

    def advance(self, images: int) -> Any:
        self.seconds += self.cost
        self.images += images
        return SimpleNamespace(images=self.images, losses={"discriminator": 1.0}, ema=None)


def test_all_have_the_same_seconds_and_are_examined_at_half_and_at_the_end(monkeypatch):
    costs = {PROJECTED: 0.1, "heads 32 wide": 0.35, "R1": 1.0}
    monkeypatch.setattr(sweep, "enter", lambda name, *_: Quick(costs[name]))
    monkeypatch.setattr(sweep, "generate_pixels", lambda *_: None)
    monkeypatch.setattr(sweep, "examine", lambda *_: {"pixels": 0.5})
    study: Any = SimpleNamespace(size=sweep.DIGITS.size)
    raced: list[Any] = list(sweep.race(sweep.DIGITS, study, list(costs), 0, 10.0))
    for one in raced:
        assert 10 <= one.seconds < 10 + one.cost + 1e-6
        first, last = [mark["seconds"] for mark in one.marks if "kid" in mark]
        assert 5 <= first < 5 + one.cost + 1e-6 and last == one.seconds


@pytest.fixture
def toy(monkeypatch, tmp_path):
    """Return a case of three settings whose rate decays, its study, and where its records are."""
    case = replace(sweep.shrink(sweep.CIFAR10), seconds=0.01, final_seconds=0.1)
    few = dict(list(sweep.vary(3e-4, case.r1).items())[:2])
    monkeypatch.setattr(sweep, "vary", lambda *_: few)
    (tmp_path / "case").mkdir()
    study = Study(replace(case.size, classifier=8, views=8), "digits", tmp_path / "case", tmp_path)
    return case, study, Records(tmp_path / "found.jsonl", tmp_path / "locks", sweep.KEYS)


def test_a_killed_sweep_does_what_is_missing(toy, monkeypatch):
    case, study, records = toy
    sweep.work(case, study, records, "python")
    known = list(records.rows)
    assert len(known) == 2 + 3 + 2 * 3
    assert {row["seed"] for row in known if row["budget"] == case.final_seconds} == {0, 1}
    for row in known:
        assert set(row["kid"]) == set(case.spaces) and (not row["budget"] or row["seconds"] >= 0)
    records.file.write_text("".join(json.dumps(row) + "\n" for row in known if row["seed"] != 1))
    raced, race = [], sweep.race
    monkeypatch.setattr(sweep, "race", lambda *given: raced.append(given[2:]) or race(*given))
    again = Records(records.file, records.locks, sweep.KEYS)
    sweep.work(case, study, again, "python")
    assert [(len(settings), seed) for settings, seed, _ in raced] == [(3, 1)]
    assert len(again.rows) == len(known)


def test_a_decaying_rate_ends_with_the_seconds(toy):
    """At half it is known how many images there will be; the run goes on from where it was."""
    case, study, _ = toy
    (one,) = sweep.race(replace(case, batch_size=4), study, [PROJECTED], 0, 1.0)
    half = next(mark["images"] for mark in one.marks if mark["seconds"] >= 0.5)
    assert one.recipe.duration == 2 * half
    assert [mark["images"] for mark in one.marks] == [4 * (k + 1) for k in range(len(one.marks))]


def record(setting, seed, kids, budget=80.0):
    curve = [{"seconds": budget / 2, "images": 50, "loss": 0.9, "kid": kids},
             {"seconds": budget, "images": 100, "loss": 0.8, "kid": kids}]  # fmt: skip
    about = {"data": "digits-8", "setting": setting, "seed": seed, "budget": budget, "settings": {}}
    return {**about, "images": 100, "seconds": budget, "kid": kids, "curve": curve, "command": "python"}


def those_of(settings):
    """Return records of settings by their KIDs in two spaces, whose seeds differ a little."""
    rows = [{**record(name, 0, {"classifier": 1.0, "pixels": 1.0}, 0), "curve": []} for name in FIXED]
    rows += [record(name, TRIAL_SEED, dict(zip(("classifier", "pixels"), kids, strict=True)), 40.0)
             for name, kids in settings.items()]  # fmt: skip
    for seed in (0, 1, 2):
        for name, kids in settings.items():
            shifted = [kid * (1 + 0.01 * seed * len(name)) for kid in kids]
            rows.append(record(name, seed, dict(zip(("classifier", "pixels"), shifted, strict=True))))
    return rows


@pytest.mark.parametrize(
    ("kids", "verdict"), [((0.1, 0.1), "holds"), ((0.1, 0.9), "fails"), ((0.1, 0.4), "not decided")]
)
def test_a_setting_is_nearer_when_it_is_in_both_spaces(kids, verdict):
    rows = those_of({PROJECTED: (0.4, 0.4), "R1": kids})
    if verdict == "not decided":
        for row in rows:
            if row["setting"] == "R1" and row["seed"] == 1:
                row["kid"]["pixels"] = 0.3
    assert Found(rows).claim("R1").verdict == verdict
    assert Found(rows).finalists == [PROJECTED, "R1"]


def test_the_report_takes_the_place_of_the_last_section_alone(tmp_path):
    page, figure = tmp_path / "page.md", tmp_path / "images" / "figure.png"
    page.write_text("# Judges\n\nText.\n\n## What was measured\n\nOld.\n")
    write(those_of({PROJECTED: (0.4, 0.4), "R1": (0.1, 0.9)}), page, figure)
    text = page.read_text()
    assert text.startswith("# Judges\n\nText.\n\n## What was measured\n") and "Old." not in text
    assert "R1 fails" in text and "CIFAR-10, 16x16" in text.partition("Not measured yet")[2]
    assert figure.stat().st_size > 0


def test_a_sweep_that_is_not_done_is_told(tmp_path):
    rows = [row for row in those_of({PROJECTED: (0.4, 0.4), "R1": (0.1, 0.9)}) if row["budget"] < 80]
    write(rows, tmp_path / "page.md", tmp_path / "figure.png")
    text = (tmp_path / "page.md").read_text()
    assert find(rows)[0].finals == [] and "| R1 |" in text and "fails" not in text.partition("###")[0]
