"""The study of CIFAR-10: what it trains, what it skips and keeps, and what its report concludes from the records."""

import json
import math
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

PLACE = Path(__file__).parent.parent.parent / "benchmarks"
sys.path.insert(0, str(PLACE))
import cifar10_study as study  # noqa: E402
import report_results as report  # noqa: E402
import report_tables  # noqa: E402
import study_claims  # noqa: E402
import study_rows  # noqa: E402
import study_work  # noqa: E402
from study_records import HELD_OUT, Records, alone, choose, read_lines  # noqa: E402
from study_run import is_of_another  # noqa: E402

from d2o.training.recipe import to_dict  # noqa: E402

FACTS = {
    "floor": 5.0, "floor_kid": 0.0, "precision": 0.5, "recall": 0.5, "diversity": 0.4, "frechet": 9.0,
    "command": "python benchmarks/cifar10_study.py", "examined": 64, "reference_images": 100, "real": None,
    "peak_bytes": 1 << 20, "parameters": 10**6, "seconds": 60.0,
    "gap": 0.1, "nearest_seen": 2.0, "nearest_held_out": 3.0,
}  # fmt: skip
ROWS = [
    "d2o-f", "d2o-f-best", "d2o", "cd", "pd", "ctm", "cd-gan", "scratch",
    "stylegan2", "frechet", "frechet-gan", "dmd2", "dmd2-gan", "sketch-gan", "dit-flow-d2o-f",
]  # fmt: skip
"""Those that scripts may rely on."""


def record(row, images, kid, space, seed=0, reference=HELD_OUT, **more):
    about = {"row": row, "seed": seed, "images": images, "feature_space": space, "kid": kid, "reference": reference}
    return {**FACTS, **about, **more}


def those_that_agree():
    """Return records under which every claim holds: three seeds that differ a little."""
    kids = {"d2o": 0.4, "d2o-f": 0.2, "cd": 0.6, "pd": 0.7, "ctm": 0.8, "cd-gan": 0.5, "stylegan2": 0.9}
    kids |= {"dmd2": 0.3, "dmd2-gan": 0.3, "dit-flow-d2o-f": 0.3, "d2o-f-real500": 0.5, "d2o-real500": 0.8}
    rows = []
    for space in study.SPACES:
        for seed in range(3):
            noise = 0.01 * seed
            for mark, times in ((100, 2.0), (200, 1.0)):
                for name, kid in kids.items():
                    recall = 0.1 - noise if name == "stylegan2" else 0.5
                    rows.append(record(name, mark, kid * times + noise * len(name) / 5, space, seed, recall=recall))
            for steps in study_rows.TEACHER_STEPS:
                kid = 0.02 * math.log2(steps) * (1 + noise)
                rows.append(record(f"cd-{steps}", 100, kid, space, seed, f"teacher in {steps} steps"))
        rows.append(record("blurred", 0, 1.8, space))
        rows += [record(f"teacher-{k}", 0, 1.0 / k, space) for k in study_rows.TEACHER_STEPS]
        rows += [record(f"dit-teacher-{k}", 0, 10.0 / k, space) for k in study_rows.TEACHER_STEPS]
    return rows


def verdicts(rows):
    return {one.letter: one.verdict for one in study_claims.claims(study_claims.Results(rows))}


def test_the_claims_hold_where_all_records_say_so():
    assert verdicts(those_that_agree()) == dict.fromkeys("abcdefg", "holds")


@pytest.mark.parametrize(
    ("letter", "name", "change"),
    [
        ("a", "pd", {"kid": 0.0}),
        ("b", "d2o-real500", {"kid": 0.0}),
        ("c", "cd-gan", {"kid": 0.0}),
        ("d", "teacher-18", {"kid": 99.0}),
        ("e", "stylegan2", {"recall": 0.9}),
        ("f", "dmd2", {"kid": 0.0}),
        ("g", "dit-flow-d2o-f", {"kid": 9.0}),
    ],
)
def test_a_claim_fails_where_one_feature_space_contradicts_it(letter, name, change):
    rows = [
        # seeds that agree but for a little, as an interval needs some spread
        {**one, **{key: value + 0.001 * one["seed"] for key, value in change.items()}}
        if one["row"] == name and one["feature_space"] == "views"
        else one
        for one in those_that_agree()
    ]
    assert verdicts(rows)[letter] == "fails"
    (claim,) = (one for one in study_claims.claims(study_claims.Results(rows)) if one.letter == letter)
    assert claim.weakest is not None and claim.weakest.verdict == "fails"


def test_seeds_that_disagree_decide_nothing():
    rows = [
        {**one, "kid": (0.0, 0.9, 0.2)[one["seed"]]} if one["row"] == "cd-gan" else one for one in those_that_agree()
    ]
    assert verdicts(rows)["c"] == "not decided"


def test_one_seed_decides_nothing():
    assert set(verdicts([one for one in those_that_agree() if one["seed"] == 0]).values()) == {"not decided"}


def test_the_interval_is_students():
    (found,) = study_claims.student([1.0, 2.0, 3.0], "kid", "lite2")
    assert found.value == 2.0
    assert found.interval == pytest.approx((2 - 4.30265 / math.sqrt(3), 2 + 4.30265 / math.sqrt(3)), rel=1e-5)


def test_equal_seconds_take_the_longest_run_that_is_not_slower():
    rows = [record("cd", 100, 0.6, "lite2", seconds=60.0)]
    rows += [
        record("d2o-f", mark, kid, "lite2", seconds=s)
        for mark, kid, s in ((50, 0.5, 20), (100, 0.3, 59), (200, 0.1, 120))
    ]
    (found,) = study_claims.Results(rows).below_in_time("d2o-f", "cd", 100)
    assert found.value == pytest.approx(0.3 - 0.6)


def test_the_page_tells_the_answer_failures_and_trials(tmp_path):
    file = tmp_path / "r.jsonl"
    file.write_text("".join(json.dumps(one) + "\n" for one in those_that_agree()))
    (tmp_path / "r").mkdir()
    (tmp_path / "r" / "log.jsonl").write_text(
        json.dumps({"time": "now", "step": "cd", "event": "failed", "error": "No."})
    )
    trial = {
        "row": "cd",
        "trial": 1,
        "images": 9,
        "settings": {"learning_rate": 1e-3},
        "kid": dict.fromkeys(study.SPACES, 0.5),
    }
    (tmp_path / "r" / "trials.jsonl").write_text(json.dumps(trial))
    former = [record("cd", 100, 0.75, space, settings={"objectives.0.steps": 4}) for space in study.SPACES]
    (tmp_path / "r" / "earlier.jsonl").write_text("".join(json.dumps(one) + "\n" for one in former))
    out = tmp_path / "docs" / "results.md"
    report.write(study_claims.Results(read_lines(file)), file, out)
    page = out.read_text()
    assert "objectives.0.steps = 4 | 1 | 0.750 / 0.750 / 0.750 |" in page
    assert "now cd: No." in page and "learning_rate = 0.001" in page and page.index("(a)") < page.index("|")
    assert (tmp_path / "docs/images/results.png").exists()


def test_the_rows_are_those_that_scripts_rely_on():
    rows = study_rows.rows(study_rows.FULL)
    assert set(ROWS) <= {one.name for one in rows}
    assert len({one.key for one in rows}) == len(rows)
    for name in ROWS:
        seen = {(one.images, one.seed) for one in rows if one.name == name}
        assert {(mark, seed) for mark in (6_000, 24_000) for seed in (0, 1, 2)} <= seen
    assert {one.images for one in rows if one.name in ("d2o", "d2o-f", "d2o-f-best")} == {
        6_000,
        24_000,
        100_000,
        200_000,
    }
    assert len({one.steps for one in rows if one.steps}) >= 5
    assert set(report_tables.WORDS) >= set(ROWS)


def test_every_method_has_as_many_trials_and_each_is_a_recipe():
    found = study_rows.trials(study_rows.FULL)
    counts = {name: sum(one.name == name for one in found) for name in {one.name for one in found}}
    assert len(set(counts.values())) == 1 and set(counts) >= set(ROWS)
    for one in found:
        assert one.trial is not None and one.settled(one.trial).duration == study_rows.FULL.trials


def test_the_best_trial_is_chosen_over_all_spaces(tmp_path):
    one = study.Study(study.QUICK, "digits", tmp_path / "runs", tmp_path / "results")
    kids = ({"lite2": 1.0, "classifier": 0.1, "views": 0.1}, {"lite2": 1.1, "classifier": 0.01, "views": 0.1})
    one.tried.write(
        [
            {"row": "cd", "trial": n, "images": 5 if n > 1 else 9, "settings": {"learning_rate": n + 1.0}, "kid": kid}
            for n, kid in enumerate((*kids, dict.fromkeys(study.SPACES, 0.0)))
        ]
    )  # fmt: skip
    found = {method: choose(one.tried.rows, method) for method in ("cd", "pd")}
    assert found == {"cd": {"learning_rate": 2.0}, "pd": {}}  # not the third, which is shorter


def test_a_row_whose_choice_has_changed_is_made_again(tmp_path):
    one = study.Study(study.QUICK, "digits", tmp_path / "runs", tmp_path / "results")
    row = study_rows.rows(one.size)[0]

    def done() -> bool:
        return next(known for key, _, _, known in study_work.jobs(one) if key == row.key)

    one.records.write([record(row.name, row.images, 0.5, space, settings={}) for space in study.SPACES])
    assert done()
    trial = {"row": row.method, "trial": 1, "images": one.size.trials, "settings": {"learning_rate": 1.0}}
    one.tried.write([{**trial, "kid": dict.fromkeys(study.SPACES, 0.5)}])
    assert not done()


def test_runs_can_be_limited_to_short_ones(tmp_path):
    one = study.Study(study.QUICK, "digits", tmp_path / "runs", tmp_path / "results")
    first, second = one.size.marks
    keys = [{key for key, row, _, _ in study_work.jobs(one, most) if row == "d2o-f"} for most in (first, second, None)]
    assert keys[0] < keys[1] == keys[2]


def test_known_speeds_take_the_place_of_seconds():
    """As runs are made at different hours of a machine that may be slower at one than at another."""
    speeds = {"cd": {"before": [1.0, 3.0], "per_image": [0.1, 0.3]}, "d2o": {"before": [0.0], "per_image": [1.0]}}
    names = {"cd": 22.0, "cd-9": 22.0, "d2o-real500": 100.0, "pd": 60.0}
    found = study_claims.Results([record(name, 100, 0.5, "lite2") for name in names], speeds)
    assert {row["row"]: row["seconds"] for row in found.rows} == pytest.approx(names)
    assert study_claims.Results([record("cd", 0, 0.5, "lite2")], speeds).rows[0]["seconds"] == 60.0


def test_a_run_of_an_older_recipe_is_recognised(tmp_path):
    row = study_rows.rows(study_rows.QUICK)[0]
    recipe = row.settled({})
    assert not is_of_another(tmp_path, recipe)
    (tmp_path / "recipe.json").write_text(json.dumps({"recipe": to_dict(recipe)}))
    assert not is_of_another(tmp_path, recipe)
    assert is_of_another(tmp_path, row.settled({"learning_rate": 0.5}))


def test_records_take_the_place_of_older_ones_and_outlive_a_line_that_was_cut(tmp_path):
    records = Records(tmp_path / "r.jsonl", tmp_path)
    records.write([record("cd", 100, 0.5, "lite2"), record("cd", 100, 0.6, "views")])
    with records.file.open("a") as file:
        file.write('{"row": "cd", "see')
    records.write([record("cd", 100, 0.4, "lite2")])
    found = {one["feature_space"]: one["kid"] for one in read_lines(records.file)}
    assert found == {"lite2": 0.4, "views": 0.6}


def test_a_step_that_fails_is_kept_in_the_log_and_the_next_one_goes_on(tmp_path, monkeypatch):
    def refuse():
        raise OSError("the disk is full")

    one = study.Study(study.QUICK, "digits", tmp_path / "runs", tmp_path / "results")
    monkeypatch.setattr(one, "examiner", lambda: None)
    mark = tmp_path / "b"
    steps = [
        ("a", "x", refuse, False),
        ("k", "x", lambda: os.kill(os.getpid(), signal.SIGKILL), False),
        ("b", "x", mark.touch, False),
        ("c", "x", refuse, True),
    ]
    monkeypatch.setattr(study_work, "jobs", lambda *_: iter(steps))
    assert study.work(one) == 2 and mark.exists()
    log = read_lines(one.log)
    events = [(line["step"], line["event"]) for line in log]
    assert events == [(name, event) for name, end in (("a", "failed"), ("k", "failed"), ("b", "finished"))
                      for event in ("started", end)]  # fmt: skip
    assert "the disk is full" in log[1]["error"] and "-9" in log[3]["error"]


def test_a_folder_of_other_data_is_refused(tmp_path):
    words = [sys.executable, str(PLACE / "cifar10_study.py"), "--quick", "--runs", str(tmp_path / "runs")]
    words += ["--results", str(tmp_path / "results")]
    study.Study(study.QUICK, "digits", tmp_path / "runs", tmp_path / "results").claim()
    np.savez(tmp_path / "other.npz", images=np.zeros((500, 8, 8, 1), np.uint8), labels=np.arange(500) % 10)
    done = subprocess.run([*words, "--data", str(tmp_path / "other.npz")], capture_output=True, text=True, check=False)
    assert done.returncode == 2 and "another data" in done.stderr and "--runs" in done.stderr
    assert "Traceback" not in done.stderr


def test_two_studies_do_not_do_the_same_step(tmp_path):
    with alone(tmp_path / "locks" / "row", wait=False) as first, alone(tmp_path / "locks" / "row", False) as second:
        assert first and not second


def test_the_report_says_which_methods_wait(tmp_path):
    trial = {"kid": dict.fromkeys(study.SPACES, 0.5), "settings": {}, "trial": 0}
    (tmp_path / "trials.jsonl").write_text(
        "\n".join(
            json.dumps({**trial, "row": row, "images": images}) for row, images in [("d2o", 90), ("cd", 30), ("pd", 90)]
        )
    )
    taken = {"d2o": {}, "cd": {}, "pd": {"learning_rate": 1.0}}
    rows = [record(row, 90, 0.5, "lite2", settings=settings) for row, settings in taken.items()]
    told = report.waiting(report.Results(rows), tmp_path)
    short, former = told.split(" Still by the settings")
    assert "CD" in short and "D2O" not in short and "PD" in former and "CD" not in former
    assert not report.waiting(report.Results(rows[:1]), tmp_path)
