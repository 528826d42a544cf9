"""Interventions change what they say and nothing else, are done once, and tell what they found."""

import json
from copy import deepcopy
from dataclasses import replace

import numpy as np
import pytest
import torch

import d2o
from d2o.analysis import bands, parts, pretraining, trials
from d2o.analysis.findings import plain
from d2o.analysis.frequency import Band, ring_power
from d2o.analysis.quality_figures import of_bands, of_parts, of_pretraining
from d2o.analysis.trials import Bench, remembered, tuned
from d2o.discriminators import Projected
from d2o.training import recipes
from d2o.training.networks import networks

QUICK = {
    "duration": 16,
    "batch_size": 8,
    "learning_rate": 1e-2,
    "discriminator": Projected(size=32, width=8, weights="random"),
}
TUNE = replace(recipes.D2O, **QUICK)
PRETRAIN = replace(
    recipes.PRETRAIN, duration=16, batch_size=8, backbone={**recipes.BACKBONES["tiny"], "channels": 8, "num_blocks": 1}
)


@pytest.fixture(scope="module")
def critic():
    return TUNE.discriminator.build((1, 8, 8), 2, 0)


@pytest.fixture(autouse=True)
def quick_networks(monkeypatch, critic):
    """Copy one discriminator for all trials, as building it takes longer than they do."""

    def copied(recipe, teacher):
        return networks(recipe, teacher, deepcopy(critic) if "discriminator" in recipe.needs else None)

    monkeypatch.setattr(trials, "networks", copied)


@pytest.fixture
def bench(tmp_path, tiny_data):
    return Bench(tmp_path / "trials", d2o.images(tiny_data), count=12, features="pixels")


@pytest.fixture
def untrainable(monkeypatch):
    """Return a function after whose call training is an error."""

    def forbid():
        def never(*_, **__):
            raise AssertionError("trained again")

        monkeypatch.setattr(trials, "run", never)

    return forbid


class TestTrials:
    def test_are_done_once(self, bench, tiny_denoiser, untrainable):
        teacher = tiny_denoiser(classes=2)
        score, directory = tuned(bench, "one", TUNE, teacher, origin={"a": 1})
        assert np.isfinite(score["kid"]) and not (directory / "checkpoint.safetensors").exists()
        untrainable()
        again, _ = tuned(bench, "one", TUNE, teacher, origin={"a": 1})
        assert again == plain(score)

    def test_continue_after_a_kill(self, bench, tiny_denoiser):
        teacher = tiny_denoiser(classes=2)

        def stop(moments, duration, title):
            next(iter(moments))
            raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            tuned(replace(bench, watch=stop), "cut", TUNE, teacher, origin={})
        score, _ = tuned(bench, "cut", TUNE, teacher, origin={})
        whole, _ = tuned(bench, "whole", TUNE, teacher, origin={})
        assert score == whole

    def test_other_settings_are_refused(self, bench, tiny_denoiser):
        teacher = tiny_denoiser(classes=2)
        tuned(bench, "one", TUNE, teacher, origin={"a": 1})
        with pytest.raises(ValueError, match="holds another run: its a is 1, not 2"):
            tuned(bench, "one", TUNE, teacher, origin={"a": 2})
        with pytest.raises(ValueError, match=r"its evaluation\.count is 12, not 16"):
            tuned(replace(bench, count=16), "one", TUNE, teacher, origin={"a": 1})
        with pytest.raises(ValueError, match=r"its evaluation\.steps is 1, not 2; choose another directory"):
            tuned(bench, "one", TUNE, teacher, origin={"a": 1}, steps=2)
        with pytest.raises(ValueError, match="its teacher_sha256 is"):  # trained anew in the same place
            tuned(bench, "one", TUNE, tiny_denoiser(1, classes=2), origin={"a": 1})

    def test_other_data_of_the_same_name_is_refused(self, bench, tiny_denoiser, tiny_data, tmp_path, untrainable):
        teacher = tiny_denoiser(classes=2)
        score, directory = tuned(bench, "one", TUNE, teacher, origin={})
        untrainable()
        arrays = dict(np.load(tiny_data))
        np.savez(tmp_path / "tiny.npz", **{**arrays, "images": 255 - arrays["images"]})
        other = replace(bench, images=d2o.images(tmp_path / "tiny.npz"), judges={})
        sentence = r"holds another run: tiny has other images or labels than it had then; choose another directory"
        with pytest.raises(ValueError, match=sentence):
            tuned(other, "one", TUNE, teacher, origin={})
        record = json.loads((directory / "recipe.json").read_text())
        del record["data"]["fingerprint"]
        (directory / "recipe.json").write_text(json.dumps(record))
        assert tuned(bench, "one", TUNE, teacher, origin={})[0] == plain(score), "of an older version"

    def test_measurements_are_remembered(self, tmp_path):
        file = tmp_path / "a" / "b.json"
        assert remembered(file, {"x": 1}, lambda: {"kid": 2.0}) == {"kid": 2.0}
        assert remembered(file, {"x": 1}, lambda: pytest.fail("measured again")) == {"kid": 2.0}
        with pytest.raises(ValueError, match=r"b\.json holds a result of other settings: its x is 1, not 2; choose"):
            remembered(file, {"x": 2}, dict)

    def test_measurements_that_knew_less_of_their_data_are_taken(self, tmp_path):
        file, now = tmp_path / "a.json", {"x": 1, "data": "imgs", "fingerprint": "f0"}
        for old in ({"x": 1}, {"x": 1, "data": "imgs"}, {"x": 1, "data": "elsewhere", "fingerprint": "f0"}):
            file.write_text(json.dumps({"settings": old, "score": {"kid": 2.0}}))
            assert remembered(file, now, lambda: pytest.fail("measured again")) == {"kid": 2.0}
        with pytest.raises(ValueError, match=r"a\.json .*elsewhere has other images or labels"):
            remembered(file, {**now, "data": "elsewhere", "fingerprint": "f1"}, dict)


class TestParts:
    def test_cover_the_network_once(self, tiny_denoiser):
        model = tiny_denoiser(classes=2)
        names = {name for name, _ in model.backbone.named_parameters()}
        for kind in parts.KINDS:
            found = parts.parts_of(model, [kind])
            assert set().union(*(part.parameters for part in found)) == names
            assert sum(len(part.parameters) for part in found) == len(names)
        with pytest.raises(ValueError, match="there are blocks, roles"):
            parts.parts_of(model, ["layers"])

    def test_unknown_parts_are_refused_before_anything_trains(self, bench, tiny_denoiser, untrainable):
        untrainable()
        with pytest.raises(ValueError, match="there are blocks, roles"):
            parts.parts(tiny_denoiser(classes=2), TUNE, bench, kinds=["layers"])
        with pytest.raises(ValueError, match="Kinds of parts are blocks and roles, not none"):
            parts.parts(tiny_denoiser(classes=2), TUNE, bench, kinds=[])

    def test_a_teacher_that_was_trained_anew_is_another_one(self, bench, tiny_denoiser, monkeypatch):
        score = {"kid": 1.0}
        monkeypatch.setattr(parts, "tuned", lambda *_, **__: (score, bench.directory))
        options = {"modes": ["train"], "kinds": ["roles"], "seeds": range(2), "steps": 4, "origin": {"from": "here"}}
        parts.parts(tiny_denoiser(0, classes=2), TUNE, bench, **options)
        with pytest.raises(
            ValueError, match=r"untuned-0\.json holds a result of other settings: its teacher_sha256 is"
        ):
            parts.parts(tiny_denoiser(1, classes=2), TUNE, bench, **options)

    @pytest.mark.parametrize("mode", parts.MODES)
    def test_only_the_part_moves_or_all_but_it(self, bench, tiny_denoiser, mode):
        teacher = tiny_denoiser(classes=2)
        part = next(part for part in parts.parts_of(teacher, ["roles"]) if part.name == "norm")
        _, directory = tuned(bench, mode, TUNE, teacher, origin={}, prepare=parts.moving(part, mode))
        student = d2o.load(directory)
        moved = {
            name
            for (name, old), new in zip(teacher.backbone.named_parameters(), student.backbone.parameters(), strict=True)
            if not torch.equal(old, new)
        }
        everything = {name for name, _ in teacher.backbone.named_parameters()}
        assert moved <= (part.parameters if mode == "train" else everything - part.parameters)
        assert len(moved) > 0.5 * len(part.parameters if mode == "train" else everything - part.parameters)

    def test_the_study(self, bench, tiny_denoiser, untrainable, monkeypatch):
        teacher = tiny_denoiser(classes=2)
        few = parts.parts_of(teacher, ["blocks"])[-4:]  # all of them take the tests too long
        monkeypatch.setattr(parts, "parts_of", lambda *_: few)
        options = {"modes": ["train"], "kinds": ["blocks"], "seeds": range(2), "steps": 4}
        study = parts.parts(teacher, TUNE, bench, **options)
        found = parts.findings(study)
        assert {name for _, _, name in study.results} == {part.name for part in few}
        assert found.conclusion[-1].startswith("One run each")
        links = plain(found.as_dict())["rank_correlations"]
        assert [link["predictor"] for link in links] == list(parts.PREDICTORS)
        assert {drawing.name for drawing in of_parts(study)} == {"train-blocks", "prediction-train"}
        untrainable()
        assert parts.findings(parts.parts(teacher, TUNE, bench, **options)).as_dict() == found.as_dict()

    def test_unknown_mode(self, bench, tiny_denoiser):
        with pytest.raises(ValueError, match="Modes are train and freeze"):
            parts.parts(tiny_denoiser(), TUNE, bench, modes=["melt"])


class TestBands:
    def test_the_gradient_has_the_band_and_nothing_else(self, tiny_denoiser):
        student = tiny_denoiser()
        bands.limit_gradient(student, Band(2, 3), keep=True)
        outputs = []
        student.backbone.register_forward_hook(lambda _, __, output: outputs.append(output))
        made = student(torch.randn(2, 1, 8, 8), 1.0)
        outputs[0].retain_grad()
        (made * torch.randn_like(made)).sum().backward()
        power = ring_power(outputs[0].grad)
        assert np.allclose(power[:, [0, 1, 4, 5, 6]], 0, atol=1e-12) and (power[:, 2:4] > 1e-6).all()

    def test_an_output_is_filtered_only_within(self, tiny_denoiser):
        student = tiny_denoiser()
        x = torch.randn(2, 1, 8, 8)
        with torch.no_grad():
            before = student(x, 1.0)
            for place in (bands.IMAGE, "dec.8x8_block0"):
                with bands.filtering(student, place, Band(1, 1), keep=False):
                    assert not torch.allclose(student(x, 1.0), before, atol=1e-4)
                assert torch.equal(student(x, 1.0), before)
            with bands.filtering(student, bands.IMAGE, Band(1, 1), keep=False):
                assert np.allclose(ring_power(student(x, 1.0))[:, 1], 0, atol=1e-12)

    def test_the_study(self, bench, tiny_denoiser, untrainable, monkeypatch):
        teacher = tiny_denoiser(classes=2)
        assert set(bands.spots(teacher).values()) == {7} and "dec.8x8_block0" in bands.spots(teacher)
        monkeypatch.setattr(bands, "spots", lambda _: {bands.IMAGE: 7, "dec.8x8_block0": 7})
        options = {"modes": ["remove"], "gradient_modes": ["keep"], "seeds": range(2), "steps": 4}
        study = bands.bands(teacher, TUNE, bench, **options)
        found = bands.findings(study)
        assert [str(band) for _, band in study.gradients] == ["0", "1", "2-3", "4-7"]
        assert len(found.tables) == 2 and len(of_bands(study)) == 2
        untrainable()
        assert bands.findings(bands.bands(teacher, TUNE, bench, **options)).as_dict() == found.as_dict()
        with pytest.raises(ValueError, match="its student_sha256 is"):  # trained anew in the same place
            bands.bands(teacher, TUNE, bench, student=tiny_denoiser(1, classes=2), **options)

    def test_nothing_is_trained_for_outputs_of_a_student_alone(self, bench, tiny_denoiser, untrainable, monkeypatch):
        untrainable()
        monkeypatch.setattr(bands, "spots", lambda _: {bands.IMAGE: 7})
        teacher, student = tiny_denoiser(classes=2), tiny_denoiser(1, classes=2)
        options = {"modes": ["remove"], "gradient_modes": [], "seeds": range(2), "steps": 4}
        study = bands.bands(teacher, TUNE, bench, student=student, **options)
        found = bands.findings(study)
        assert study.full is None and len(study.outputs) == 4
        assert found.numbers["full_gradient"] is None and not found.numbers["gradients"]
        assert len(found.tables) == len(of_bands(study)) == 1 and found.conclusion[-1].startswith("One run each")
        with pytest.raises(AssertionError, match="trained again"):
            bands.bands(teacher, TUNE, bench, **options)

    def test_unknown_modes_and_none(self, bench, tiny_denoiser, untrainable):
        untrainable()
        with pytest.raises(ValueError, match="there are remove, keep"):
            bands.bands(tiny_denoiser(), TUNE, bench, modes=["blur"])
        with pytest.raises(ValueError, match=r"Nothing is filtered: name modes .*: remove, keep"):
            bands.bands(tiny_denoiser(), TUNE, bench, modes=[], gradient_modes=[])


class TestPretraining:
    def test_the_study(self, bench, untrainable):
        options = {"lengths": [16, 0], "repetitions": 2, "steps": 2}
        study = pretraining.pretraining(PRETRAIN, TUNE, bench, **options)
        assert study.lengths == (0, 16) and len(study.students[1].rows) == 2
        found = pretraining.findings(study)
        assert [row[0] for row in found.tables[0].rows] == [0, 16]
        assert "One run each" not in found.text()
        assert len(of_pretraining(study)) == 1
        recipe = json.loads((bench.directory / "student-16-1" / "recipe.json").read_text())
        assert recipe["recipe"]["seed"] == 1 and recipe["pretrained for"] == 16
        untrainable()
        assert pretraining.findings(pretraining.pretraining(PRETRAIN, TUNE, bench, **options)) == found
        for lengths, name in (([0, 16], "teacher-0-0.json"), ([16, 20], "teacher-16-0")):
            with pytest.raises(ValueError, match=rf"{name} holds .*steps is 2, not 3; choose another directory"):
                pretraining.pretraining(PRETRAIN, TUNE, bench, **{**options, "lengths": lengths, "steps": 3})
        with pytest.raises(ValueError, match="at least 1 step, not 0"):
            pretraining.pretraining(PRETRAIN, TUNE, bench, **{**options, "steps": 0})

    @pytest.mark.parametrize("lengths", [[16], [-1, 16], []])
    def test_bad_lengths(self, bench, lengths):
        with pytest.raises(ValueError, match="at least two lengths"):
            pretraining.pretraining(PRETRAIN, TUNE, bench, lengths=lengths)

    def test_a_recipe_without_a_network(self, bench):
        with pytest.raises(ValueError, match="needs a backbone"):
            pretraining.pretraining(recipes.PRETRAIN, TUNE, bench, lengths=[0, 16])
