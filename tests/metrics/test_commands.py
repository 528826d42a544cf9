"""`d2o statistics` stores what `d2o evaluate` compares with; `evaluate` takes runs, guidance and prepared data."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

import d2o
from d2o.cli.main import run

UNFINISHED = Path(__file__).parents[1] / "fixtures" / "0.1.0" / "d2o-f"


@pytest.fixture
def evaluate(capsys: pytest.CaptureFixture[str]):
    """Return a function that runs `d2o evaluate` on 20 images in pixels, and returns its JSON."""

    def call(*words: object) -> dict:
        capsys.readouterr()
        assert run(["evaluate", *map(str, words), "--images", "20", "--features", "pixels", "--json"]) == 0
        return json.loads(capsys.readouterr().out)

    return call


def refuse(capsys: pytest.CaptureFixture[str], words: list[object], *names: str) -> None:
    """A command is refused with exit code 2 and one sentence with these names."""
    try:
        code = run(list(map(str, words)))
    except SystemExit as stop:
        code = stop.code
    text = capsys.readouterr().err
    assert code == 2 and "Traceback" not in text
    for name in names:
        assert name in text


def test_statistics_stand_for_the_data(tmp_path: Path, tiny_data: Path, tiny_denoiser, evaluate) -> None:
    """All of the images, or as many as are asked for: every distance is that to the data themselves."""
    model, stored = tmp_path / "model.safetensors", tmp_path / "reference.npz"
    d2o.save(model, tiny_denoiser(classes=2))
    for some, limit in ([], []), (["--images", "20"], ["--reference-images", "20"]):
        assert run(["statistics", str(tiny_data), str(stored), "--features", "pixels", *some]) == 0
        assert [file.name for file in tmp_path.glob("*.npz")] == ["reference.npz"]
        direct, through = evaluate(model, tiny_data, *limit), evaluate(model, stored)
        assert through["distances"] == pytest.approx(direct["distances"], rel=1e-6)
        assert direct["distances"]["reference_images"] == (20 if limit else 40)
    assert through["reference_diversity"]["feature_distance"] > 0 and through["space"] == "pixels"
    for end in ("--images", "9"), ():
        assert run(["statistics", str(tiny_data), str(stored), "--features", "pixels", "--moments", *end]) == 0
        with np.load(stored) as arrays:
            assert sorted(arrays) == ["count", "mu", "sigma", "space"] and arrays["count"] == (9 if end else 40)
    assert evaluate(model, stored)["distances"]["kid"] is None


def test_statistics_are_of_data_as_they_are_prepared(tmp_path: Path, tiny_data: Path, evaluate) -> None:
    stored, options = tmp_path / "small.npz", ["--resolution", "4", "--resize", "area", "--channels", "3"]
    words = ["statistics", str(tiny_data), str(stored), "--features", "pixels", "--images", "20"]
    assert run([*words, *options]) == 0
    assert evaluate(tiny_data, stored, *options)["distances"]["frechet"] == pytest.approx(0, abs=1e-6)


def test_what_statistics_cannot_be_made_of_is_refused(tmp_path: Path, tiny_data: Path, capsys) -> None:
    out = tmp_path / "out.npz"
    refuse(capsys, ["statistics", tmp_path / "absent", out], "absent")
    refuse(capsys, ["statistics", tiny_data, tmp_path / "out.txt"], "out.txt", ".npz")
    refuse(capsys, ["statistics", tiny_data, out, "--images", 3], "--images", "3")
    refuse(capsys, ["statistics", tiny_data, out, "--features", "lite3"], "lite3", "lite2")
    refuse(capsys, ["statistics", tiny_data, out, "--batch", 0], "batch", "0")
    refuse(capsys, ["statistics", UNFINISHED, out], "d2o-f", "model")  # never its grids of samples
    refuse(capsys, ["pretrain", "--data", UNFINISHED, "--out", tmp_path / "run"], "d2o-f", "model")
    assert not list(tmp_path.iterdir())


def test_an_unfinished_run_is_a_model_on_both_sides(tmp_path: Path, evaluate) -> None:
    for name in "ab":
        shutil.copytree(UNFINISHED, tmp_path / name)
        (tmp_path / name / "samples").mkdir()
        (tmp_path / name / "samples" / "00000000.png").write_bytes(b"never looked at")
    found = evaluate(tmp_path / "a", tmp_path / "b")
    assert found["pairs"]["pixels"] == 0 and (found["name"], found["reference"]) == ("a", "b")


def test_guidance_needs_a_model_with_classes(tmp_path: Path, tiny_data: Path, tiny_denoiser, evaluate, capsys) -> None:
    conditional, plain = tmp_path / "conditional.safetensors", tmp_path / "plain.safetensors"
    d2o.save(conditional, tiny_denoiser(classes=2))
    d2o.save(plain, tiny_denoiser())
    one, guided = (evaluate(conditional, tiny_data, "--guidance", scale)["distances"] for scale in (1, 3))
    assert one["frechet"] != guided["frechet"]
    refuse(capsys, ["evaluate", plain, tiny_data, "--features", "pixels", "--guidance", 3], "3.0", "classes")


def test_a_base_needs_a_model(tiny_data: Path, capsys) -> None:
    refuse(capsys, ["evaluate", tiny_data, tiny_data, "--base", "digits-small"], "tiny.npz", "checkpoint")
