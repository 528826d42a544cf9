"""Every script of research/ runs from end to end, writes numbers and figures, and does nothing twice."""

import json
import runpy
import sys
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import d2o
from conftest import make_denoiser
from d2o.analysis.frequency import Band, octaves, ring_power
from d2o.analysis.network import watch_blocks
from d2o.discriminators import Projected
from d2o.training.networks import networks

RESEARCH = Path(__file__).parent.parent.parent / "research"
JUDGE = Projected(networks=("tf_efficientnet_lite0",), size=32, width=8, weights="random")
MEASURED = ["--count", "12", "--features", "pixels", "--repetitions", "1"]
SETTINGS = [word for name in ("networks=[tf_efficientnet_lite0]", "size=32", "width=8", "weights=random") for word in
            ("--set", f"discriminator.{name}")]  # fmt: skip
TRIALS = [*MEASURED, "--images", "8", "--set", "batch_size=8", *SETTINGS]
TINY = "backbone: {kind: song_unet, channels: 8, channel_multipliers: [1], num_blocks: 1, attention_resolutions: []}"


@pytest.fixture(scope="module")
def discriminator():
    return JUDGE.build((1, 8, 8), 2, 0)


@pytest.fixture(autouse=True)
def quick(monkeypatch, discriminator):
    """Copy one discriminator for all trials, as building it takes longer than they do; figures of few dots."""

    def copied(recipe, teacher):
        return networks(recipe, teacher, deepcopy(discriminator) if "discriminator" in recipe.needs else None)

    monkeypatch.syspath_prepend(str(RESEARCH))
    sys.modules.pop("trials", None)
    import trials

    monkeypatch.setattr(trials, "networks", copied)
    monkeypatch.setattr("d2o.pages.DOTS", 40)
    return trials


@pytest.fixture
def run(monkeypatch, tiny_data, tmp_path):
    """Return a function that runs a script in this process and returns the numbers that it wrote."""
    for name, seed in (("teacher", 0), ("student", 1)):
        d2o.save(tmp_path / f"{name}.safetensors", make_denoiser(seed, classes=2))
    monkeypatch.chdir(tmp_path)

    def script(name, *words):
        monkeypatch.setattr(sys, "argv", [name, *words, "--data", str(tiny_data), "--out", "out"])
        runpy.run_path(str(RESEARCH / f"{name}.py"), run_name="__main__")
        return json.loads((tmp_path / "out" / f"{name}.json").read_text())

    return script


def forbid_training(monkeypatch, trials):
    monkeypatch.setattr(trials, "finetune", lambda *_, **__: pytest.fail("trained again"))


def figures(tmp_path):
    return {file.stem for file in (tmp_path / "out").glob("*.png")}


def test_parts(run, tmp_path, monkeypatch, quick):
    words = ["teacher.safetensors", *TRIALS, "--kinds", "roles", "--modes", "train", "--seeds", "2", "--steps", "4"]
    found = run("parts", *words)
    assert {row["part"] for row in found["results"]} >= {"norm", "convolution"} and not found["rank_correlations"]
    assert figures(tmp_path) == {"parts-train-roles"}
    teacher: Any = d2o.load(tmp_path / "teacher.safetensors")
    student = d2o.load(tmp_path / "out/trials/parts/train-role-norm-0/ema.safetensors")
    pairs = zip(teacher.backbone.named_parameters(), student.backbone.parameters(), strict=True)
    moved = {name for (name, old), new in pairs if not torch.equal(old, new)}
    assert moved and all(teacher.backbone.role(name) == "norm" for name in moved)
    forbid_training(monkeypatch, quick)
    assert run("parts", *words) == found


def test_parts_predicts_by_blocks(run, tmp_path, monkeypatch, quick):
    score = {"kid": 1.0, "recall": 0.5}
    monkeypatch.setattr(quick, "fine_tune", lambda *_, **__: score)
    found = run("parts", "teacher.safetensors", *TRIALS, "--kinds", "blocks", "--seeds", "2", "--steps", "4")
    assert len(found["rank_correlations"]) == 4 * 2
    assert figures(tmp_path) == {f"parts-{name}" for mode in ("train", "freeze") for name in
                                 (f"{mode}-blocks", f"prediction-{mode}")}  # fmt: skip


def test_every_part_is_frozen_once():
    module = runpy.run_path(str(RESEARCH / "parts.py"))
    model = make_denoiser(classes=2)
    names = {name for name, _ in model.backbone.named_parameters()}
    for kind in ("blocks", "roles"):
        parts = module["parts_of"](model, kind)
        assert sorted(name for members in parts.values() for name in members) == sorted(names)
        for part in parts:
            alone, rest = (set(module["freezing_rules"](parts, part, mode)) for mode in ("freeze", "train"))
            assert alone | rest == {f"name:{name}" for name in names} and not alone & rest


def test_bands(run, tmp_path, monkeypatch, quick):
    words = ["teacher.safetensors", *TRIALS, "--modes", "remove", "--gradient-modes", "keep", "--seeds", "2"]
    found = run("bands", *words, "--steps", "4")
    assert {row["band"] for row in found["gradients"]} == {"0", "1", "2-3", "4-7"}
    assert {row["block"] for row in found["outputs"]} >= {"image", "dec.8x8_block0"}
    assert figures(tmp_path) == {"bands-output-remove", "bands-gradient"}
    forbid_training(monkeypatch, quick)
    assert run("bands", *words, "--steps", "4") == found


def test_pretraining(run, tmp_path, monkeypatch, quick):
    (tmp_path / "tiny.yaml").write_text(
        f"{TINY}\nobjectives: [{{kind: denoising}}]\nbatch_size: 8\npretrained: false\n"
    )
    words = [*TRIALS, "--pretrain", "tiny.yaml", "--lengths", "8", "0", "--steps", "2"]
    found = run("pretraining", *words)
    assert found["lengths"] == [0, 8] and len(found["students"]) == 2
    assert figures(tmp_path) == {"pretraining-quality"}
    forbid_training(monkeypatch, quick)
    assert run("pretraining", *words) == found


def test_interpolation(run, tmp_path):
    words = ["teacher.safetensors", "student.safetensors", *MEASURED, "--points", "3"]
    found = run("interpolation", *words)
    assert found["share"] == [0, 0.5, 1] and found["excess"][0] == found["excess"][2] == 0
    assert figures(tmp_path) == {"interpolation-line"}
    assert run("interpolation", *words) == found


def test_the_ends_of_the_line_are_the_models():
    interpolate = runpy.run_path(str(RESEARCH / "interpolation.py"))["interpolate"]
    teacher, student = make_denoiser(0), make_denoiser(1)
    x = torch.randn(2, 1, 8, 8)
    for share, end in ((0, teacher), (1, student)):
        assert torch.allclose(interpolate(teacher, student, share)(x, 1.0), end(x, 1.0), atol=1e-5)


@pytest.mark.parametrize(
    ("script", "words", "names"),
    [
        ("parts", ["teacher.safetensors", "--kinds"], "--kinds"),
        ("parts", ["teacher.safetensors", "--recipe", "d3o"], "d3o"),
        ("parts", ["teacher.safetensors", "--count", "7"], "--count"),
        ("bands", ["teacher.safetensors", "--modes", "--gradient-modes"], "--gradient-modes"),
        ("pretraining", ["--lengths", "5"], "--lengths"),
        ("pretraining", ["--pretrain", "digits-d2o"], "digits-pretrain"),
        ("pretraining", ["--pretrain", "digits-sketch-gan"], "digits-sketch-gan"),
        ("parts", ["teacher.safetensors", "--recipe", "digits-sketch-gan"], "digits-sketch-gan"),
        ("interpolation", ["teacher.safetensors", "student.safetensors", "--points", "2"], "--points"),
        ("interpolation", ["teacher.safetensors", "nothing"], "nothing"),
    ],
)
def test_bad_input_is_one_sentence(run, script, words, names, capsys, tmp_path):
    with pytest.raises(SystemExit) as stop:
        run(script, *words)
    error = capsys.readouterr().err.strip()
    *told, sentence = error.splitlines()
    assert stop.value.code == 2 and names in sentence and all("images of" in line for line in told)
    assert not (tmp_path / "out").exists()


class TestFilters:
    @pytest.fixture
    def bands(self):
        return runpy.run_path(str(RESEARCH / "filters.py"))

    def test_split_an_image(self, bands):
        images = torch.randn(2, 3, 9, 9)
        parts = [bands["filter_band"](images, band, keep=True) for band in octaves(7)]
        assert torch.allclose(torch.stack(parts).sum(0), images, atol=1e-5)
        assert torch.allclose(bands["filter_band"](images, Band(2, 3), keep=False), images - parts[2], atol=1e-5)
        assert np.allclose(ring_power(parts[2])[:, [0, 1, 4, 5, 6]], 0, atol=1e-12)

    def test_tokens_are_filtered_as_their_map(self, bands):
        image = torch.randn(2, 5, 3, 3)
        tokens = bands["filter_tokens"](image.flatten(2).transpose(1, 2), Band(1, 1), keep=True)
        expected = bands["filter_band"](image, Band(1, 1), keep=True)
        assert torch.allclose(tokens.transpose(1, 2).unflatten(2, (3, 3)), expected)
        with pytest.raises(ValueError, match="tuple"):
            bands["filter_tokens"]((image,), Band(1, 1), keep=True)

    def test_act_within_their_block_only(self, bands):
        student, x = make_denoiser(), torch.randn(2, 1, 8, 8)
        with torch.no_grad():
            before = student(x, 1.0)
            for place in ("image", "dec.8x8_block0"):
                with bands["filter_output"](student, place, Band(1, 1), False), watch_blocks(student.backbone) as seen:
                    found = student(x, 1.0)
                assert not torch.allclose(found, before, atol=1e-4) and torch.equal(student(x, 1.0), before)
                power = ring_power(found if place == "image" else seen[place][1])
                assert place != "image" or np.allclose(power[:, 1], 0, atol=1e-12)

    def test_limit_the_gradient(self, bands):
        student = make_denoiser()
        bands["filter_gradient"](student, Band(2, 3), keep=True)
        outputs = []
        student.backbone.register_forward_hook(lambda _, __, output: outputs.append(output))
        made = student(torch.randn(2, 1, 8, 8), 1.0)
        outputs[0].retain_grad()
        (made * torch.randn_like(made)).sum().backward()
        power = ring_power(outputs[0].grad)
        assert np.allclose(power[:, [0, 1, 4, 5, 6]], 0, atol=1e-12) and (power[:, 2:4] > 1e-6).all()


class TestGroups:
    """Pairs of one block are not independent: whole blocks are counted and resampled."""

    @pytest.fixture
    def correlate(self):
        return runpy.run_path(str(RESEARCH / "bands.py"))["grouped_rank_correlation"]

    def test_few_groups_have_no_interval(self, correlate):
        found = correlate([(range(9), range(9))] * 3)
        assert found.value == pytest.approx(1) and np.isnan(found.low) and found.size == 3
        assert correlate([]).size == 0

    def test_groups_without_relation_contain_zero(self, correlate):
        generator = np.random.default_rng(4)
        groups = [tuple(generator.normal(size=(2, 1)) + 0.1 * generator.normal(size=(2, 6))) for _ in range(10)]
        found = correlate(groups)
        assert found.low < 0 < found.high and found.size == 10 and found.effective <= 10

    def test_a_clear_order_excludes_zero(self, correlate):
        values = np.random.default_rng(5).permutation(12)
        assert correlate([((v, v + 0.5), (v, v + 0.4)) for v in values]).low > 0.5
