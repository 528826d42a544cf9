"""Whoever is watched answers in evaluation mode, and with finite numbers, or is told by name."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

import d2o
from d2o.analysis import bands
from d2o.analysis.barrier import denoising_losses
from d2o.analysis.blocks import blocks, findings
from d2o.analysis.paths import evaluating, sampled
from d2o.analysis.spectrum import spectrum
from d2o.diffusion.denoiser import Denoiser

WALK = {"seeds": range(4), "steps": 4}


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
    def test_broken_weights(self, tiny_denoiser):
        model = tiny_denoiser()
        with torch.no_grad():
            next(iter(model.parameters())).fill_(float("nan"))
        words = "at sigma 80: its weights are broken, or its training diverged; use an earlier checkpoint"
        with pytest.raises(ValueError, match=rf"^The teacher gives NaN or infinite values {words}\.$"):
            spectrum(model, **WALK)
        with pytest.raises(ValueError, match=f"^The network gives NaN or infinite values {words}"):
            blocks(model, **WALK)
        with pytest.raises(ValueError, match=r"^The student gives NaN or infinite values at sigma 80"):
            bands.spots(model)

    @pytest.mark.parametrize("value", [float("nan"), float("inf")])
    def test_the_first_bad_level_is_told(self, tiny_denoiser, value):
        for study in (spectrum, blocks):
            with pytest.raises(ValueError, match=r"infinite values at sigma 9\.72:"):
                study(breaks_below(tiny_denoiser(), 20, value), **WALK)

    def test_the_student_is_told_from_the_teacher(self, tiny_denoiser):
        teacher, broken = tiny_denoiser(0), breaks_below(tiny_denoiser(1), 20)
        with pytest.raises(ValueError, match=r"The student gives .* at sigma 9\.72"):
            spectrum(teacher, student=broken, **WALK)
        with pytest.raises(ValueError, match=r"The student gives .* at sigma 9\.72"):
            blocks(teacher, broken, **WALK)
        with pytest.raises(ValueError, match=r"The teacher gives .* at sigma 9\.72"):
            blocks(broken, teacher, **WALK)

    def test_the_one_step_image_is_looked_at(self, tiny_denoiser):
        teacher, student = tiny_denoiser(0), tiny_denoiser(1)
        with pytest.raises(ValueError, match="The student gives NaN or infinite values at sigma 80"):
            spectrum(teacher, student=breaks_below(student, 81), **WALK)

    def test_real_data(self, tiny_denoiser, tiny_data):
        def real(arguments: tuple) -> bool:
            return arguments[0].dtype == torch.float32  # a walk from noise is added up in float64

        model = breaks_below(tiny_denoiser(classes=2), 20, when=real)
        with pytest.raises(ValueError, match=r"The teacher on real data gives NaN or infinite values at sigma 9\.72"):
            spectrum(model, images=d2o.images(tiny_data), **WALK)


class TestEvaluation:
    def test_every_part_gets_its_mode_back(self):
        network = nn.Sequential(nn.Dropout(), nn.Sequential(nn.Dropout(), nn.Dropout()))
        modes = [True, False, True, False, True]

        def set_modes() -> None:
            for part, mode in zip(network.modules(), modes, strict=True):
                part.training = mode

        set_modes()
        with evaluating(network):
            assert not any(part.training for part in network.modules())
        assert [part.training for part in network.modules()] == modes
        with pytest.raises(RuntimeError), evaluating(network):
            raise RuntimeError
        assert [part.training for part in network.modules()] == modes

    def test_dropout_changes_no_study(self, tiny_denoiser, tiny_data):
        models = [tiny_denoiser(seed, classes=2, dropout=0.5) for seed in (0, 1)]
        images = d2o.images(tiny_data)

        def studies() -> list[Any]:
            walked = spectrum(models[0], student=models[1], images=images, **WALK)
            found = [one.centroids.tolist() for one in (*walked.progressions, *walked.at_once)]
            losses = denoising_losses(models[0], images, 12, 6).tolist()
            return [found, findings(blocks(*models, **WALK)).as_dict(), losses, bands.spots(models[1])]

        expected = studies()
        for model in models:
            model.train()
        assert studies() == expected and studies() == expected
        assert all(part.training for model in models for part in model.modules())

    def test_the_mode_is_back_while_a_path_waits(self, tiny_denoiser):
        model = tiny_denoiser(dropout=0.5).train()
        path = next(sampled(model, range(2), 4))
        next(path.points)
        next(path.points)
        assert all(part.training for part in model.modules())

    def test_a_broken_denoiser_gets_it_back(self, tiny_denoiser):
        model = breaks_below(tiny_denoiser(), 20).train()
        for study in (spectrum, blocks):
            with pytest.raises(ValueError, match="infinite values"):
                study(model, **WALK)
        assert all(part.training for part in model.modules())
