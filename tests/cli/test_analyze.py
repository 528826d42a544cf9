"""`d2o analyze`: help for every study, results on disk, one sentence for bad input."""

import contextlib
import io
import json
from types import SimpleNamespace

import pytest

import d2o
from d2o import backbones
from d2o.analysis import page
from d2o.cli.commands.analyze import STUDIES
from d2o.cli.main import run
from d2o.cli.studies import label


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    from conftest import make_denoiser

    folder = tmp_path_factory.mktemp("models")
    for name, seed in (("teacher", 0), ("student", 1)):
        d2o.save(folder / f"{name}.safetensors", make_denoiser(seed, classes=2))
    return folder / "teacher.safetensors", folder / "student.safetensors"


def exit_code(words):
    try:
        return run([str(word) for word in words])
    except SystemExit as stop:
        return stop.code or 0


@pytest.mark.parametrize("study", STUDIES)
def test_every_study_shows_two_examples(study):
    with contextlib.redirect_stdout(io.StringIO()) as output:
        assert exit_code(["analyze", study, "--help"]) == 0
    assert output.getvalue().count(f"d2o analyze {study}") >= 3


def test_the_overview_names_every_study(capsys):
    assert run(["analyze"]) == 0
    text = capsys.readouterr().out
    assert all(f"  {study} " in text for study in STUDIES)


def test_spectrum_and_blocks(models, tiny_data, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(page, "DOTS", 40)
    walk = ["--steps", 4, "--seeds", "0-3", "--out", tmp_path]
    teacher, student = models
    assert exit_code(["analyze", "spectrum", teacher, "--student", student, "--data", tiny_data, *walk]) == 0
    assert exit_code(["analyze", "blocks", teacher, "--after", student, *walk]) == 0
    assert "rank correlation is" in capsys.readouterr().out
    for study in ("spectrum", "blocks"):
        assert (tmp_path / f"{study}.html").exists()
        assert json.loads((tmp_path / f"{study}.json").read_text())["origin"]["model"] == str(teacher)


def test_minima(models, tiny_data, tmp_path, monkeypatch):
    monkeypatch.setattr(page, "DOTS", 40)
    measure = ["--data", tiny_data, "--count", 12, "--features", "pixels", "--repetitions", 1, "--points", 3]
    assert exit_code(["analyze", "minima", *models, *measure, "--steps", 1, 2, "--out", tmp_path]) == 0
    assert len(json.loads((tmp_path / "minima.json").read_text())["distances"]) == 8


def test_minima_without_a_line_between_the_weights(models, tiny_data, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(page, "DOTS", 40)
    student = d2o.load(models[1])
    student.backbone = backbones.widened(student.backbone, 16)
    d2o.save(tmp_path / "ctm.safetensors", student)
    measure = ["--data", tiny_data, "--count", 12, "--features", "pixels", "--repetitions", 1, "--steps", 1]
    assert exit_code(["analyze", "minima", models[0], tmp_path / "ctm.safetensors", *measure, "--out", tmp_path]) == 0
    assert "There is no line between the weights of the teacher and of ctm.safetensors" in capsys.readouterr().out
    assert json.loads((tmp_path / "minima.json").read_text())["interpolations"] == []


def test_minima_continues(models, tiny_data, tmp_path, monkeypatch):
    monkeypatch.setattr(page, "DOTS", 40)
    measure = ["--data", tiny_data, "--count", 12, "--features", "pixels", "--repetitions", 2, "--points", 3]
    words = ["analyze", "minima", *models, *measure, "--steps", 1, 2, "--out", tmp_path, "--batch"]
    assert exit_code([*words, 5]) == 0
    page_of_first = (tmp_path / "minima.html").read_text()
    assert {path.name for path in (tmp_path / "trials" / "minima").iterdir()} == {
        "walk",
        *(f"{name}-{i}.json" for name in ("student.safetensors-1", "teacher-1", "teacher-2") for i in range(2)),
    }
    monkeypatch.setattr("d2o.metrics.evaluation.Judge.__init__", lambda *_, **__: pytest.fail("measured again"))
    assert exit_code([*words, 7]) == 0 and (tmp_path / "minima.html").read_text() == page_of_first


@pytest.mark.parametrize("study", ["minima", "parts", "bands", "pretraining"])
def test_studies_judge_in_batches(study, models, tiny_data, tmp_path, monkeypatch):
    sizes = []

    def stop(self, *_, batch_size, **__):
        sizes.append(batch_size)
        raise ValueError("seen")

    monkeypatch.setattr("d2o.metrics.evaluation.Judge.__init__", stop)
    monkeypatch.setattr("d2o.analysis.trials.run", lambda *_, **__: iter(()))  # no training
    monkeypatch.setattr("d2o.analysis.trials.networks", lambda *_: SimpleNamespace(student=None, ema=None))
    place = {"minima": models, "pretraining": []}.get(study, models[:1])
    assert exit_code(["analyze", study, *place, "--data", tiny_data, "--batch", 7, "--out", tmp_path]) == 2
    assert sizes == [7]


@pytest.mark.parametrize("change", [{"channels": 3}, {"classes": 3}])
def test_a_student_of_another_teacher_is_told_before_anything_trains(
    change, models, tiny_data, tmp_path, monkeypatch, capsys
):
    from conftest import make_denoiser

    monkeypatch.setattr("d2o.analysis.trials.run", lambda *_, **__: pytest.fail("trained"))
    other = tmp_path / "other.safetensors"
    d2o.save(other, make_denoiser(1, **{"classes": 2, **change}))
    words = [models[0], "--student", other, "--data", tiny_data, "--out", tmp_path / "why"]
    for study in ("bands", "spectrum"):
        assert exit_code(["analyze", study, *words]) == 2
        assert f"--student {other} makes images" in capsys.readouterr().err


def test_where_models_were_is_no_part_of_a_trial(models, tiny_data, tmp_path, monkeypatch):
    """The hashes of their weights are: the same models elsewhere continue."""
    seen = []

    def stop(*_, origin, **__):
        seen.append(origin)
        raise ValueError("seen")

    monkeypatch.setattr("d2o.analysis.bands.tuned", stop)
    monkeypatch.setattr("d2o.analysis.parts.remembered", lambda file, settings, measure: stop(origin=settings))
    words = [models[0], "--data", tiny_data, "--out", tmp_path]
    assert exit_code(["analyze", "bands", *words, "--student", models[1]]) == 2
    assert exit_code(["analyze", "parts", *words]) == 2
    assert seen[0] == {"gradient": "full"} and "teacher_sha256" in seen[1]
    assert not {"from", "student"} & seen[1].keys()


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--repetitions", 0], "at least 1"),
        (["--batch", 0], "--batch is at least 1, not 0."),
        (["--count", 7], "--count is at least 8, not 7."),
        (["--steps", 0], "at least 1"),
        (["--points", 2], "at least 3 points"),
        (["--out", "FILE"], "is a file: choose a directory"),
        (["--out", "FILE/why"], "is a file: choose a directory"),
    ],
)
def test_what_cannot_work_is_said_before_the_work(words, sentence, models, tiny_data, tmp_path, monkeypatch, capsys):
    def never(*_, **__):
        raise AssertionError("worked")

    monkeypatch.setattr("d2o.metrics.evaluation.Judge.__init__", never)
    monkeypatch.setattr("d2o.analysis.barrier.walk", never)
    file = tmp_path / "file"
    file.touch()
    words = [str(word).replace("FILE", str(file)) for word in words]
    rest = ["--data", tiny_data, *([] if "--out" in words else ["--out", tmp_path])]
    assert exit_code(["analyze", "minima", *models, *rest, *words]) == 2
    assert sentence in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["analyze", "spectra"], "There is no study 'spectra': did you mean spectrum?"),
        (["analyze", "spectrum", "TEACHER", "--steps", "2", "--out", "x"], "at least 4 steps"),
        (["analyze", "spectrum", "TEACHER", "--seeds", "7", "--out", "x"], "at least 2"),
        (["analyze", "spectrum", "nothing.safetensors", "--out", "x"], "nothing.safetensors"),
        (
            ["analyze", "spectrum", "TEACHER", "--steps", "4", "--seeds", "0-1", "--out", "TEACHER"],
            "choose a directory",
        ),
        (["analyze", "pretraining", "--data", "digits", "--lengths", "5", "--out", "x"], "at least two lengths"),
        (["analyze", "parts", "TEACHER", "--data", "digits", "--out", "x", "--kinds"], "Kinds of parts are blocks and"),
        (
            ["analyze", "bands", "TEACHER", "--data", "digits", "--out", "x", "--modes", "--gradient-modes"],
            "Nothing is filtered",
        ),
        (["analyze", "spectrum", "TEACHER", "--out", ""], "output is empty: name a directory"),
        (["analyze", "parts", "TEACHER", "--data", "digits", "--recipe", "d3o", "--out", "x"], "no recipe 'd3o'"),
    ],
)
def test_bad_input_is_one_sentence(models, words, sentence, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert exit_code([models[0] if word == "TEACHER" else word for word in words]) == 2
    error = capsys.readouterr().err.strip()
    assert sentence in error and "Traceback" not in error and len(error.splitlines()) == 1
    assert not (tmp_path / "x").exists()


def test_names_of_students():
    assert label(["a/one", "b/two"]) == {"one": "a/one", "two": "b/two"}
    assert list(label(["a/ema.safetensors", "b/ema.safetensors"])) == ["a/ema.safetensors", "b/ema.safetensors"]
    with pytest.raises(ValueError, match="named twice"):
        label(["a", "a"])
