"""Preconditionings against the equations that define them."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from d2o.diffusion.families import EDM, VE, VP, Boundary, from_spec, to_spec
from refusal import refused

SIGMAS = torch.tensor([0.002, 0.05, 0.5, 3.0, 80.0], dtype=torch.float64)
POSITIVE = st.floats(0.01, 100)


@pytest.mark.parametrize("family", [EDM(), EDM(1.7), Boundary(), Boundary(0.9, 0.01), VE(), VP()])
def test_a_spec_comes_back_as_the_same_record(family):
    assert from_spec(to_spec(family)) == family


@given(POSITIVE, st.floats(0.001, 0.1))
def test_every_number_survives_its_spec(sigma_data, sigma_min):
    family = Boundary(sigma_data, sigma_min)
    assert from_spec(to_spec(family)) == family


@given(POSITIVE, POSITIVE)
def test_edm_gives_the_network_inputs_and_targets_of_unit_variance(sigma_data, sigma):
    c = EDM(sigma_data)(torch.tensor(sigma, dtype=torch.float64))
    # x0 ~ N(0, sigma_data^2), noise ~ N(0, sigma^2): target = (x0 - skip (x0 + noise)) / output
    assert c.input**2 * (sigma_data**2 + sigma**2) == pytest.approx(1)
    target_variance = ((1 - c.skip) ** 2 * sigma_data**2 + c.skip**2 * sigma**2) / c.output**2
    assert float(target_variance) == pytest.approx(1)
    assert float(c.noise) == pytest.approx(math.log(sigma) / 4)


@given(POSITIVE, POSITIVE)
def test_edm_skips_as_much_as_makes_the_output_smallest(sigma_data, sigma):
    c = EDM(sigma_data)(torch.tensor(sigma, dtype=torch.float64))

    def variance(skip):
        return (1 - skip) ** 2 * sigma_data**2 + skip**2 * sigma**2

    assert variance(c.skip) <= min(variance(c.skip * 1.01), variance(c.skip * 0.99))


def test_boundary_is_the_identity_at_sigma_min_whatever_the_network_says(tiny_denoiser):
    student = tiny_denoiser()
    student.preconditioning = Boundary()
    x = torch.randn(3, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    assert torch.equal(student(x, student.preconditioning.sigma_min), x)
    assert not torch.equal(student(x, 0.01), x)


def test_boundary_and_edm_nearly_agree_at_high_noise():
    for c, other in zip(Boundary()(SIGMAS[-1:]), EDM()(SIGMAS[-1:]), strict=True):
        torch.testing.assert_close(c, other, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize(("family", "sign"), [(VP(), -1), (VE(), 1)])
def test_variance_families_are_exact_for_a_network_that_knows_the_noise(family, sign):
    x0, noise = 0.3, -1.4
    c = family(SIGMAS)
    torch.testing.assert_close(c.skip * (x0 + SIGMAS * noise) + c.output * (-sign * noise), torch.full_like(SIGMAS, x0))


def test_vp_noise_inverts_its_schedule():
    family = VP()
    time = family(SIGMAS).noise / family.time_scale
    log_alpha = -0.5 * (0.5 * family.beta_range * time**2 + family.beta_min * time)
    torch.testing.assert_close(((-2 * log_alpha).exp() - 1).sqrt(), SIGMAS)
    torch.testing.assert_close(family(SIGMAS).input, log_alpha.exp())  # x / s(t) has variance 1 for unit data


def test_ve_noise_is_the_logarithm_of_half_of_sigma():
    assert VE()(torch.tensor(2.0)).noise == 0
    assert torch.equal(VE()(SIGMAS).input, torch.ones_like(SIGMAS))


@pytest.mark.parametrize(
    "spec",
    [
        {},
        {"kind": "edn"},
        {"kind": "edm", "sigma": 1.0},
        {"kind": "edm", "sigma_data": "0.5"},
        {"kind": "edm", "sigma_data": True},
        {"kind": "edm", "sigma_data": None},
        {"kind": "edm", "sigma_data": [0.5]},
        {"kind": "edm", "sigma_data": math.nan},
        {"kind": "edm", "sigma_data": math.inf},
        {"kind": "edm", "sigma_data": -0.5},
        {"kind": "edm", "sigma_data": 0},
        {"kind": "edm", "sigma_data": 10**400},
        {"kind": ["edm"]},
    ],
)
def test_a_wrong_spec_is_a_clear_error(spec):
    with refused("preconditioning"):
        from_spec(spec)


def test_an_unknown_kind_names_the_nearest():
    with refused("edn", "'edm'", "--import"):
        from_spec({"kind": "edn"})
