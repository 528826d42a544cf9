"""Whoever is watched answers in evaluation mode, and with finite numbers, or is told by name."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

import d2o
from d2o.analysis.blocks import blocks
from d2o.analysis.paths import Sampling, noising_paths, sampling_paths
from d2o.analysis.spectrum import spectrum
from d2o.diffusion.denoiser import Denoiser, evaluation_mode
from d2o.diffusion.noise import noise_for
from d2o.diffusion.sampling import generate

SAMPLING = Sampling(range(4), 4)


def breaks_below(model: Denoiser, level: float, value: float = float("nan"), when: Callable = bool) -> Denoiser:
    """Spoil one pixel of what a denoiser answers below a noise level."""

    def spoil(_: nn.Module, arguments: tuple, output: torch.Tensor) -> torch.Tensor:
        if arguments[1] < level and when(arguments):
            output = output.clone()
            output[-1, 0, 0, 0] = value
        return output

    model.register_forward_hook(spoil)
    return model


class TestFiniteOutputs:
    @pytest.mark.parametrize("study", [spectrum, blocks])
    def test_broken_weights(self, tiny_denoiser, study):
        model = tiny_denoiser()
        with torch.no_grad():
            next(iter(model.parameters())).fill_(float("nan"))
        with pytest.raises(ValueError, match=r"teacher.*sigma 80:.*earlier checkpoint"):
            study(model, SAMPLING)

    @pytest.mark.parametrize("value", [float("nan"), float("inf")])
    @pytest.mark.parametrize("study", [spectrum, blocks])
    def test_the_first_bad_level_is_named(self, tiny_denoiser, value, study):
        with pytest.raises(ValueError, match=r"sigma 19\.7:"):
            study(breaks_below(tiny_denoiser(), 20, value), SAMPLING)

    def test_the_student_is_told_from_the_teacher(self, tiny_denoiser):
        teacher, broken = tiny_denoiser(0), breaks_below(tiny_denoiser(1), 20)
        with pytest.raises(ValueError, match=r"student.*sigma 19\.7"):
            spectrum(teacher, SAMPLING, student=broken)
        with pytest.raises(ValueError, match=r"student.*sigma 19\.7"):
            blocks(teacher, SAMPLING, broken)
        with pytest.raises(ValueError, match=r"teacher.*sigma 19\.7"):
            blocks(broken, SAMPLING, teacher)

    def test_the_one_step_image_is_checked(self, tiny_denoiser):
        teacher, student = tiny_denoiser(0), tiny_denoiser(1)
        with pytest.raises(ValueError, match=r"student.*sigma 80"):
            spectrum(teacher, SAMPLING, student=breaks_below(student, 81))

    def test_real_data(self, tiny_denoiser, tiny_data):
        def real(arguments: tuple) -> bool:
            return arguments[0].dtype == torch.float32  # on the way from noise it is float64

        model = breaks_below(tiny_denoiser(classes=2), 20, when=real)
        with pytest.raises(ValueError, match=r"real data.*sigma 19\.7"):
            spectrum(model, SAMPLING, images=d2o.images(tiny_data))


class TestEvaluationMode:
    def test_every_part_gets_its_mode_back(self):
        network = nn.Sequential(nn.Dropout(), nn.Sequential(nn.Dropout(), nn.Dropout()))
        modes = [True, False, True, False, True]
        for part, mode in zip(network.modules(), modes, strict=True):
            part.training = mode
        with evaluation_mode(network):
            assert not any(part.training for part in network.modules())
        assert [part.training for part in network.modules()] == modes
        with pytest.raises(RuntimeError), evaluation_mode(network):
            raise RuntimeError
        assert [part.training for part in network.modules()] == modes

    def test_dropout_changes_no_study(self, tiny_denoiser, tiny_data):
        models = [tiny_denoiser(seed, classes=2, dropout=0.5) for seed in (0, 1)]
        images = d2o.images(tiny_data)

        def studies() -> list[Any]:
            found = spectrum(models[0], SAMPLING, student=models[1], images=images)
            spectra = blocks(models[0], SAMPLING, models[1])
            return [one.centroids.tolist() for one in (*found.values(), *(block.change for block in spectra.after))]

        expected = studies()
        for model in models:
            model.train()
        assert studies() == expected
        assert all(part.training for model in models for part in model.modules())

    def test_the_mode_is_back_while_a_path_waits(self, tiny_denoiser):
        model = tiny_denoiser(dropout=0.5).train()
        path = next(sampling_paths(model, Sampling(range(2), 4)))
        next(path.points)
        next(path.points)
        assert all(part.training for part in model.modules())


class TestPaths:
    @pytest.mark.parametrize("sampler", ["heun", "euler"])
    def test_are_those_of_the_sampler(self, tiny_denoiser, sampler):
        model, sampling = tiny_denoiser(classes=2), Sampling([3, 4, 5], 5, sampler, batch_size=2)
        ends = []
        for path in sampling_paths(model, sampling):
            points = list(path.points)
            assert [sigma for sigma, _ in points] == list(sampling.levels(model))
            sigma, x = points[-1]
            with torch.no_grad():
                ends.append(model(x, sigma, path.condition))
        made = torch.cat(list(generate(model, sampling.seeds, steps=5, sampler=sampler)))
        assert torch.allclose(torch.cat(ends), made, atol=1e-5)  # the last interval ends at the last output

    def test_of_real_images_add_one_noise(self, tiny_denoiser, tiny_data):
        model, images = tiny_denoiser(classes=2), d2o.images(tiny_data)
        (path, x0), *_ = noising_paths(model, images, Sampling(range(6), 4))
        for sigma, x in path.points:
            assert torch.allclose((x - x0) / sigma, noise_for(range(6), (1, 8, 8)), atol=1e-3 + 1e-6 / sigma)
        assert path.condition is not None and len(path.condition) == 6

    @pytest.mark.parametrize(
        ("options", "names"),
        [
            ({"steps": 3}, "--steps.* 4"),
            ({"seeds": [1]}, "--seeds.* 2"),
            ({"sampler": "magic"}, "magic.*euler, heun"),
            ({"batch_size": 0}, "--batch.* 1"),
        ],
    )
    def test_bad_input(self, options, names):
        with pytest.raises(ValueError, match=names):
            Sampling(**options)
