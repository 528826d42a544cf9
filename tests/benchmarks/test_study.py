"""The study of CIFAR-10: what it trains, what it skips and keeps, and what its report concludes from the rows."""

import json
import sys
from pathlib import Path

import pytest

PLACE = Path(__file__).parent.parent.parent / "benchmarks"
sys.path.insert(0, str(PLACE))
import cifar10_study as study  # type: ignore[import-not-found]  # noqa: E402
import report_results as report  # type: ignore[import-not-found]  # noqa: E402

FACTS = {
    "floor": 5.0, "floor_kid": 0.0, "precision": 0.5, "recall": 0.5, "diversity": 0.4, "seconds": 60.0,
    "command": "d2o finetune", "examined": 64, "reference_images": 100, "reference": "held-out real images",
}  # fmt: skip


def row(name, images, kid, space, **more):
    about = {"row": name, "seed": 0, "images": images, "feature_space": space, "kid": kid, "frechet": 100 * kid}
    return {**FACTS, **about, **more}


def rows_that_agree_with_the_paper():
    kids = {"d2o": 0.4, "d2o-f": 0.2, "cd": 0.6, "pd": 0.7, "cd-gan": 0.5, "d2o-stylegan2": 0.9}
    rows = []
    for space in report.SPACES:
        lost = {"recall": 0.1, "diversity": 0.2}
        for mark, times in ((100, 2.0), (200, 1.0)):
            for name, kid in kids.items():
                rows.append(row(name, mark, kid * times, space, **(lost if name == "d2o-stylegan2" else {})))
        rows += [row("blurred", 0, 1.8, space)]
        for steps in (2, 4, 9, 18):
            rows.append(row(f"teacher-{steps}", 0, 1.0 / steps, space))
            about = {"reference": f"teacher in {steps} steps"}
            rows.append(row(f"cd-{steps} against its teacher", 200, 0.01 * steps, space, **about))
    return rows


def written(folder: Path, rows) -> "report.Results":
    folder.mkdir()
    for number, one in enumerate(rows):
        (folder / f"{number}.json").write_text(json.dumps(one))
    return report.Results(folder)


def test_the_claims_hold_where_the_rows_say_so(tmp_path):
    verdicts = {
        claim.letter: claim.holds for claim in report.claims(written(tmp_path / "r", rows_that_agree_with_the_paper()))
    }
    assert verdicts == dict.fromkeys("abcde", True)


@pytest.mark.parametrize(
    ("letter", "name", "change"),
    [
        ("a", "pd", {"kid": 0.1}),
        ("b", "d2o", {"kid": 0.1}),
        ("c", "cd-gan", {"kid": 0.1}),
        ("d", "cd-18 against its teacher", {"kid": 0.001}),
        ("d", "teacher-18", {"kid": 3.0}),
        ("e", "d2o-stylegan2", {"recall": 0.9}),
    ],
)
def test_a_claim_fails_where_one_feature_space_contradicts_it(tmp_path, letter, name, change):
    rows = [
        {**one, **change} if one["row"] == name and one["feature_space"] == "classifier" else one
        for one in rows_that_agree_with_the_paper()
    ]
    verdicts = {claim.letter: claim.holds for claim in report.claims(written(tmp_path / "r", rows))}
    assert verdicts[letter] is False


def test_what_is_missing_is_not_decided(tmp_path):
    rows = [one for one in rows_that_agree_with_the_paper() if one["row"] in ("d2o", "blurred")]
    assert {claim.holds for claim in report.claims(written(tmp_path / "r", rows))} == {None}


def test_the_page_tells_failures_and_reasons(tmp_path):
    rows = [{**one, "kid": 9.0} if one["row"] == "d2o-f" else one for one in rows_that_agree_with_the_paper()]
    results = written(tmp_path / "r", rows)
    (tmp_path / "r" / "log.jsonl").write_text(
        json.dumps({"time": "now", "step": "cd", "event": "failed", "error": "No."})
    )
    report.write(results, tmp_path / "docs" / "results.md", {"a": "too little training"})
    page = (tmp_path / "docs" / "results.md").read_text()
    assert "**fails here**" in page and "too little training" in page and "now cd: No." in page
    assert "| D2O | 1 | 100 | 0.800 |" in page and (tmp_path / "docs/images/results-curves.png").exists()


def test_every_row_is_a_recipe_and_every_claim_has_its_rows():
    rows = study.FULL.rows(study.FULL)
    names = {one.name for one in rows}
    assert {"d2o", "d2o-f", "cd", "pd", "cd-gan", "scratch", "d2o-stylegan2"} <= names
    assert (
        {one.seed for one in rows if one.name == "d2o-f"} == {0, 1} == {one.seed for one in rows if one.name == "d2o"}
    )
    assert all(one.recipe.duration == one.marks[-1] and one.recipe.seed == one.seed for one in rows)
    assert len({one.key for one in rows}) == len(rows)
    assert set(report.WORDS) >= names


def test_a_step_that_fails_is_kept_in_the_log_and_the_next_one_goes_on(tmp_path, monkeypatch, capsys):
    done = []

    def refuse():
        raise ValueError("the disk is full")

    steps = [("a", refuse, False), ("b", lambda: done.append("b"), False), ("c", lambda: done.append("c"), True)]
    monkeypatch.setattr(study, "jobs", lambda _: iter(steps))
    one = study.Study(study.QUICK, "digits", tmp_path / "runs", tmp_path / "results", 1)
    assert study.work(one) == 1 and done == ["b"]
    log = [json.loads(line) for line in (tmp_path / "results" / "log.jsonl").read_text().splitlines()]
    assert [(line["step"], line["event"]) for line in log] == [
        ("a", "started"), ("a", "failed"), ("b", "started"), ("b", "finished")
    ]  # fmt: skip
    assert "the disk is full" in log[1]["error"]


def test_two_studies_do_not_do_the_same_step(tmp_path):
    with (
        study.alone(tmp_path / "locks" / "row", wait=False) as first,
        study.alone(tmp_path / "locks" / "row", False) as second,
    ):
        assert first and not second
