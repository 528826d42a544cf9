"""bfloat16 by family: one call multiplies what a network rounds, so predictors of noise keep float32."""

import logging
import re
from dataclasses import replace

import pytest
import torch

from d2o.backbones.dit import DiT
from d2o.diffusion.denoiser import Denoiser
from d2o.diffusion.families import EDM, VE, VP, Boundary, Epsilon, Flow, Velocity, amplification, start_at
from d2o.diffusion.noise import noise_for
from d2o.diffusion.sampling import sample
from d2o.training.networks import make_student, networks
from d2o.training.recipes import D2O, METHODS, PRETRAIN

PIXEL = 0.02
"""1 % of the range of images, which is from -1 to 1."""
COARSE = {"epsilon": Epsilon(sigma_max=1e6), "80": Epsilon(), "vp": VP(), "ve": VE(), "eight": Epsilon(sigma_max=8.0)}
FINE = {
    "edm": EDM(),
    "boundary": Boundary(),
    "velocity": Velocity(),
    "flow": Flow(time_scale=1000.0),
    "trigflow": Flow(path="trigonometric", angular=True),
    "low": Epsilon(sigma_max=1.5),
}
BF16 = replace(D2O, precision="bfloat16")


def make_dit():
    """Return a transformer whose blocks and last layer are not zero, as those of a fresh one are."""
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(0)
        backbone = DiT(8, 1, 1, 0, channels=64, num_blocks=3, num_heads=4)
        for parameter in backbone.parameters():
            if parameter.dim() > 1:
                parameter.normal_(0, parameter[0].numel() ** -0.5)
    return Denoiser(backbone, EDM(), (1, 8, 8)).eval()


@pytest.fixture(scope="module", params=["U-Net", "DiT"])
def network(request, tiny_denoiser):
    return make_dit() if request.param == "DiT" else tiny_denoiser()


@torch.no_grad()
def difference(denoiser):
    """Return by how much one-step images in bfloat16 differ from float32, and the size of the network's output."""
    noise, start = noise_for(range(16), denoiser.image_shape), denoiser.sigma_max
    exact, rounded = (
        sample(denoiser.replace(precision=precision), noise, (start, 0.0))
        for precision in (torch.float32, torch.bfloat16)
    )
    coefficients = denoiser.preconditioning(torch.tensor(start, dtype=torch.float64))
    output = (exact - coefficients.skip * start * noise) / coefficients.output
    return (exact - rounded).square().mean().sqrt().item(), output.square().mean().sqrt().item()


@pytest.mark.parametrize("name", [*COARSE, *FINE])
def test_the_rounding_of_a_family_is_the_networks_own_times_its_amplification(name, network):
    family = {**COARSE, **FINE}[name]
    found, output = difference(network.replace(preconditioning=family))
    assert 2**-10 < found / amplification(family) / output < 2**-6
    assert (found / output > PIXEL) == (name in COARSE), "of a network whose output is of the size of noise"


@pytest.mark.parametrize(
    ("family", "factor"), [(Epsilon(), 80), (VE(sigma_max=7.0), 7), (Flow(), 1), (Velocity(), 1), (EDM(0.3), 0.3)]
)
def test_amplification(family, factor):
    assert amplification(family) == pytest.approx(factor, rel=1e-4)


@pytest.mark.parametrize("name", COARSE)
def test_noise_predictors_are_trained_in_float32(name, network, caplog):
    teacher = network.replace(preconditioning=COARSE[name])
    with caplog.at_level(logging.INFO, "d2o"):
        assert make_student(BF16, teacher).precision == torch.float32
    (line,) = caplog.messages
    start = float(re.findall(r"--start ([\d.]+)", line)[0])
    lower = make_student(BF16, teacher.replace(preconditioning=start_at(COARSE[name], start)))
    assert lower.precision == torch.bfloat16, "the remedy works"


@pytest.mark.parametrize("name", FINE)
def test_all_others_are_trained_as_the_recipe_says(name, network, caplog):
    with caplog.at_level(logging.INFO, "d2o"):
        student = make_student(BF16, network.replace(preconditioning=FINE[name]))
    assert student.precision == torch.bfloat16 and not caplog.messages


def test_many_steps_and_float32_have_nothing_to_say(network, caplog):
    """The loss of pre-training is that of the network's own output, and samplers forget what first calls round."""
    teacher = network.replace(preconditioning=Epsilon())
    with caplog.at_level(logging.INFO, "d2o"):
        assert make_student(replace(PRETRAIN, precision="bfloat16"), teacher).precision == torch.bfloat16
        assert make_student(D2O, teacher).precision == torch.float32
    assert not caplog.messages


def test_a_teacher_beside_the_student_computes_as_it_does(network):
    teacher = network.replace(preconditioning=Epsilon())
    recipe = replace(METHODS["cd"], precision="bfloat16")
    assert networks(recipe, teacher)["teacher"].precision == torch.float32
