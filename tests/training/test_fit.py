"""A run in Python is the run of the command; a model and images that do not fit are refused with a remedy."""

import json
from functools import partial
from typing import Any, ClassVar

import numpy as np
import pytest
import torch

import d2o
from d2o.cli.main import run
from d2o.data.files import write_images
from d2o.training import one_recipe
from d2o.training.fit import finetune, open_recipe, pretrain
from d2o.training.networks import check_fit
from d2o.training.recipe import Recipe
from d2o.training.run import Habits
from refusal import refused


@pytest.fixture
def unlabelled(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (6, 8, 8, 1), dtype=np.uint8)
    np.savez(tmp_path / "imgs.npz", images=pixels)
    return write_images(tmp_path / "imgs", [pixels])


class TestClassesWithoutLabels:
    @pytest.fixture(autouse=True)
    def refuse_no_labels(self, unlabelled, tiny_denoiser):
        for place in (unlabelled, unlabelled.with_suffix(".npz")):
            with refused("2 classes", "imgs", "--labels none"):
                check_fit(tiny_denoiser(classes=2), d2o.images(place))

    def test_a_sub_folder_for_each_class(self, unlabelled, tiny_denoiser):
        for i, file in enumerate(sorted(unlabelled.iterdir())):
            (unlabelled / "ab"[i % 2]).mkdir(exist_ok=True)
            file.rename(unlabelled / "ab"[i % 2] / file.name)
        check_fit(tiny_denoiser(classes=2), d2o.images(unlabelled))

    def test_a_list_of_labels(self, unlabelled, tiny_denoiser):
        labels = [[file.name, i % 2] for i, file in enumerate(sorted(unlabelled.iterdir()))]
        (unlabelled / "dataset.json").write_text(json.dumps({"labels": labels}))
        check_fit(tiny_denoiser(classes=2), d2o.images(unlabelled))

    def test_an_array_of_labels(self, unlabelled, tiny_denoiser):
        file = unlabelled.with_suffix(".npz")
        np.savez(file, **np.load(file), labels=np.arange(6) % 2)
        check_fit(tiny_denoiser(classes=2), d2o.images(file))

    def test_a_model_without_classes(self, unlabelled, tiny_denoiser):
        check_fit(tiny_denoiser(), d2o.images(unlabelled))


class TestPython:
    """`finetune` and `pretrain` are what the command line calls, with objects, paths or names."""

    TINY: ClassVar[dict[str, Any]] = {"kind": "song_unet", "channels": 8, "channel_multipliers": [1], "num_blocks": 1}
    SMALL: ClassVar[dict[str, Any]] = {"duration": 16, "batch_size": 8}
    JUDGE: ClassVar[dict[str, Any]] = {
        "discriminator.weights": "random",
        "discriminator.size": 32,
        "discriminator.width": 16,
    }

    def test_names_paths_and_objects_give_the_same_run_as_the_command(self, tmp_path, tiny_data, tiny_denoiser):
        d2o.save(tmp_path / "teacher.safetensors", tiny_denoiser(classes=2))
        words = ["--from", tmp_path / "teacher.safetensors", "--data", tiny_data, "--images", 16, "--batch", 8]
        words += [f"--set={key}={value}" for key, value in self.JUDGE.items()]
        assert run([str(word) for word in ["finetune", *words, "--out", tmp_path / "command"]]) == 0
        options: Any = {**self.SMALL, **self.JUDGE}
        by_name = finetune(tmp_path / "teacher.safetensors", tiny_data, out=tmp_path / "names", **options)
        recipe = open_recipe("d2o-f", options)
        teacher = d2o.load(tmp_path / "teacher.safetensors")
        by_object = finetune(teacher, d2o.images(tiny_data), recipe, out=tmp_path / "objects")
        weights = [(tmp_path / name / "ema.safetensors").read_bytes() for name in ("command", "names", "objects")]
        assert weights[0] == weights[1] == weights[2]
        again = finetune(tmp_path / "teacher.safetensors", tiny_data, out=tmp_path / "names", **options)
        assert again.images == by_name.images == 16 and again.share == by_object.share
        assert torch.equal(*(next(result.denoiser.parameters()) for result in (again, by_object)))

    def test_pretraining_draws_and_evaluates_in_many_steps(self, tmp_path, tiny_data, monkeypatch):
        calls: list[int] = []
        monkeypatch.setattr(one_recipe, "summarise", lambda _: {"kid": 0.5})
        monkeypatch.setattr(one_recipe.Evaluator, "__call__", lambda *_, steps: calls.append(steps))
        habits = Habits(evaluate_every=8, evaluate_images=8, evaluate_features="pixels")
        result = pretrain(tiny_data, out=tmp_path / "run", backbone=self.TINY, habits=habits, **self.SMALL)
        assert calls == [18, 18] and result.evaluation == {"images": 16, "kid": 0.5}

    def test_a_recipe_that_starts_from_a_model_is_no_pretraining(self, tmp_path, tiny_data):
        with refused("d2o finetune"):
            pretrain(tiny_data, "d2o-f", out=tmp_path / "run")
        with refused("smal", "small"):
            pretrain(tiny_data, out=tmp_path / "run", backbone="smal")
        assert not (tmp_path / "run").exists()

    def test_progress_goes_where_it_is_sent(self, tmp_path, tiny_data):
        seen = []

        def watch(moments, duration, title):
            seen.extend((moment.progress.images, duration, title) for moment in moments)

        pretrain(tiny_data, out=tmp_path / "run", backbone=self.TINY, watch=watch, **self.SMALL)
        assert seen == [(8, 16, str(tmp_path / "run")), (16, 16, str(tmp_path / "run"))]

    def test_ones_own_discriminator_takes_part(self, tmp_path, tiny_data, tiny_denoiser):
        recipe, teacher = open_recipe("d2o", {**self.SMALL, **self.JUDGE}), tiny_denoiser(classes=2)
        assert isinstance(recipe, Recipe)
        mine = recipe.discriminator.build(teacher.pixel_shape, 2, seed=5)
        before = {name: parameter.clone() for name, parameter in mine.named_parameters()}
        made = partial(d2o.networks, discriminator=mine)
        finetune(teacher, tiny_data, recipe, out=tmp_path / "run", networks=made)
        assert any(not torch.equal(before[name], parameter) for name, parameter in mine.named_parameters())

    @pytest.mark.parametrize("error", [MemoryError(), RuntimeError("DefaultCPUAllocator: can't allocate memory")])
    def test_memory_that_does_not_suffice_names_a_micro_batch(self, tmp_path, tiny_data, error):
        def watch(moments, duration, title):
            raise error

        with refused("--micro-batch 4"):
            pretrain(tiny_data, out=tmp_path / "run", backbone=self.TINY, watch=watch, **self.SMALL)
