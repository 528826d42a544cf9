"""`d2o analyze`: help for every study, results on disk, one sentence for bad input."""

import contextlib
import io
import json

import pytest

import d2o
from d2o.cli.commands.analyze import MOVED, STUDIES, short_names
from d2o.cli.main import run


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    from conftest import make_denoiser

    folder = tmp_path_factory.mktemp("models")
    for name, seed in (("teacher", 0), ("student", 1)):
        d2o.save(folder / f"{name}.safetensors", make_denoiser(seed, classes=2))
    return folder / "teacher.safetensors", folder / "student.safetensors"


@pytest.fixture(autouse=True)
def few_dots(monkeypatch):
    monkeypatch.setattr("d2o.pages.DOTS", 40)


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


def test_spectrum_and_blocks(models, tiny_data, tmp_path, capsys):
    sampling = ["--steps", 4, "--seeds", "0-3", "--out", tmp_path]
    teacher, student = models
    assert exit_code(["analyze", "spectrum", teacher, "--student", student, "--data", tiny_data, *sampling]) == 0
    assert exit_code(["analyze", "blocks", teacher, "--after", student, *sampling]) == 0
    assert "rank correlation" in capsys.readouterr().out
    for study in ("spectrum", "blocks"):
        assert (tmp_path / f"{study}.html").exists()
        assert json.loads((tmp_path / f"{study}.json").read_text())["origin"]["model"] == str(teacher)


def test_minima_continues(models, tiny_data, tmp_path, monkeypatch):
    measure = ["--data", tiny_data, "--count", 12, "--features", "pixels", "--repetitions", 2]
    words = ["analyze", "minima", *models, *measure, "--steps", 1, 2, "--out", tmp_path, "--batch"]
    assert exit_code([*words, 5]) == 0
    found = json.loads((tmp_path / "minima.json").read_text())
    assert len(found["distances"]) == 8
    assert {path.name for path in (tmp_path / "trials" / "minima").iterdir()} == {
        f"{name}-{i}.json" for name in ("student.safetensors-1", "teacher-1", "teacher-2") for i in range(2)
    }
    monkeypatch.setattr("d2o.analysis.measurement.Evaluator", lambda *_, **__: pytest.fail("measured again"))
    assert exit_code([*words, 7]) == 0
    assert json.loads((tmp_path / "minima.json").read_text())["distances"] == found["distances"]


def test_minima_measures_in_batches(models, tiny_data, tmp_path, monkeypatch):
    sizes = []

    def stop(*_, batch_size, **__):
        sizes.append(batch_size)
        raise ValueError("seen")

    monkeypatch.setattr("d2o.analysis.measurement.Evaluator", stop)
    monkeypatch.setattr("d2o.analysis.measurement.generate_images", stop)
    assert exit_code(["analyze", "minima", *models, "--data", tiny_data, "--batch", 7, "--out", tmp_path]) == 2
    assert sizes == [7]


@pytest.mark.parametrize("change", [{"channels": 3}, {"classes": 3}])
def test_a_student_of_another_teacher_is_refused(change, models, tmp_path, capsys):
    from conftest import make_denoiser

    other = tmp_path / "other.safetensors"
    d2o.save(other, make_denoiser(1, **{"classes": 2, **change}))
    assert exit_code(["analyze", "spectrum", models[0], "--student", other, "--out", tmp_path / "why"]) == 2
    assert "--student" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "names"),
    [
        (["--repetitions", 0], "--repetitions"),
        (["--batch", 0], "--batch"),
        (["--count", 7], "--count"),
        (["--steps", 0], "--steps"),
        (["--points", 11], "research/interpolation.py"),
        (["--out", "FILE"], "FILE"),
        (["--out", "FILE/why"], "FILE"),
    ],
)
def test_what_cannot_work_is_said_before_the_work(words, names, models, tiny_data, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("d2o.analysis.measurement.Evaluator", lambda *_, **__: pytest.fail("worked"))
    file = tmp_path / "file"
    file.touch()
    words = [str(word).replace("FILE", str(file)) for word in words]
    rest = ["--data", tiny_data, *([] if "--out" in words else ["--out", tmp_path])]
    assert exit_code(["analyze", "minima", *models, *rest, *words]) == 2
    assert names.replace("FILE", str(file)) in capsys.readouterr().err


@pytest.mark.parametrize("study", sorted(MOVED))
def test_studies_that_moved_name_their_script(study, capsys):
    assert exit_code(["analyze", study, "TEACHER", "--data", "digits"]) == 2
    assert f"python research/{study}.py" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "names"),
    [
        (["spectra"], "spectrum"),
        (["spectrum", "TEACHER", "--steps", "2", "--out", "x"], "--steps"),
        (["spectrum", "TEACHER", "--seeds", "7", "--out", "x"], "--seeds"),
        (["spectrum", "nothing.safetensors", "--out", "x"], "nothing.safetensors"),
        (["spectrum", "TEACHER", "--steps", "4", "--seeds", "0-1", "--out", "TEACHER"], "directory"),
        (["spectrum", "TEACHER", "--out", ""], "directory"),
    ],
)
def test_bad_input_is_one_sentence(models, words, names, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert exit_code(["analyze", *(models[0] if word == "TEACHER" else word for word in words)]) == 2
    error = capsys.readouterr().err.strip()
    assert names in error and "Traceback" not in error and len(error.splitlines()) == 1
    assert not (tmp_path / "x").exists()


def test_names_of_students():
    assert short_names(["a/one", "b/two"]) == {"one": "a/one", "two": "b/two"}
    assert list(short_names(["a/ema.safetensors", "b/ema.safetensors"])) == ["a/ema.safetensors", "b/ema.safetensors"]
    with pytest.raises(ValueError, match="twice"):
        short_names(["a", "a"])
