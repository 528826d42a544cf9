"""Adam's moments in bfloat16 or 8 bits: they cost what is said, learn as Adam does, and resume to the same bits."""

import sys
from dataclasses import replace
from itertools import islice

import pytest
import torch

import needs
from d2o.training.loop import train, turns
from d2o.training.networks import networks
from d2o.training.optimizers import ADAM, count_moments, make_optimizers, remember, set_rate, tensors_of
from refusal import refused

from .tiny import RECIPES, stream

SMALL = ("adam-bfloat16", "adam-8bit")
SETTINGS = {"lr": 0.01, "betas": (0.9, 0.99), "eps": 1e-8}


def make(kind):
    if kind != "adam":
        needs.package("torchao")
    generator = torch.Generator().manual_seed(0)
    parameters = [torch.nn.Parameter(torch.randn(shape, generator=generator)) for shape in ((64, 256), (7, 3))]
    return ADAM[kind](parameters, **SETTINGS), parameters


def step(optimizer, parameters, count, factor=1.0):
    """Take steps towards 1 with a little noise."""
    for index in range(count):
        generator = torch.Generator().manual_seed(index)
        for parameter in parameters:
            parameter.grad = parameter.detach() - 1 + 0.1 * torch.randn(parameter.shape, generator=generator)
        set_rate(optimizer, factor)
        optimizer.step()


@pytest.mark.parametrize("kind", SMALL)
def test_small_moments_learn_as_large_ones_do(kind):
    found, wanted = make(kind), make("adam")
    for optimizer, parameters in (found, wanted):
        step(optimizer, parameters, 20)
    moved = float((wanted[1][0] - make("adam")[1][0]).detach().abs().mean())
    assert (found[1][0] - wanted[1][0]).abs().mean() < 0.05 * moved
    torch.testing.assert_close(found[1][1], wanted[1][1], rtol=0, atol=0.02 * moved)


@pytest.mark.parametrize("kind", ["adam", *SMALL])
def test_moments_cost_what_is_said(kind):
    optimizer, parameters = make(kind)
    step(optimizer, parameters, 1)
    held = sum(t.nbytes for name, t in tensors_of(optimizer).items() if not name.endswith(("step", "qmap")))
    assert held == count_moments(kind, parameters)


@pytest.mark.parametrize("kind", ["adam", *SMALL])
def test_what_is_remembered_goes_on_to_the_same_bits(kind):
    optimizer, parameters = make(kind)
    step(optimizer, parameters, 5)
    tensors = {name: tensor.clone() for name, tensor in tensors_of(optimizer).items()}
    assert {type(tensor) for tensor in tensors.values()} == {torch.Tensor}
    other, others = make(kind)
    with torch.no_grad():
        for new, old in zip(others, parameters, strict=True):
            new.copy_(old)
    remember(other, tensors)
    assert all(torch.equal(new, old) for new, old in zip(others, parameters, strict=True)), "nothing has moved"
    for pair in ((optimizer, parameters), (other, others)):
        step(*pair, 3, factor=0.5)
    assert all(torch.equal(new, old) for new, old in zip(others, parameters, strict=True))


def test_the_rate_is_the_first_one_times_a_factor():
    optimizer, parameters = make("adam")
    for factor in (0.5, 1.0):
        before = parameters[1].detach().clone()
        step(optimizer, parameters, 1, factor)
        assert (parameters[1] - before).abs().max() <= 0.011 * factor


def test_what_another_optimiser_remembers_is_refused():
    optimizer, parameters = make("adam")
    step(optimizer, parameters, 1)
    with refused("another optimizer", "0.exp_avg"):
        remember(make("adam")[0], {"0.step": torch.ones(())})


@pytest.mark.parametrize("kind", SMALL)
def test_a_run_resumes_to_the_same_bits(tiny_denoiser, kind):
    needs.package("torchao")
    recipe = replace(RECIPES["d2o-f"], optimizer=kind)
    *_, progress = train(recipe, networks(recipe, tiny_denoiser(classes=2)), stream())
    wanted = progress.state()
    *_, progress = islice(train(recipe, networks(recipe, tiny_denoiser(classes=2)), stream()), 3)
    tensors, numbers = progress.state()
    state = {name: tensor.clone() for name, tensor in tensors.items()}, numbers
    made = networks(recipe, tiny_denoiser(classes=2))
    *_, progress = train(recipe, made, stream(start=numbers["images"]), resume=state)
    found = progress.state()
    assert [name for name, tensor in wanted[0].items() if not torch.equal(found[0][name], tensor)] == []


@pytest.mark.parametrize("kind", SMALL)
def test_without_its_package_the_remedy_is_said(tiny_denoiser, monkeypatch, kind):
    monkeypatch.setitem(sys.modules, "torchao.optim", None)
    recipe = replace(RECIPES["d2o-f"], optimizer=kind)
    made = networks(recipe, tiny_denoiser(classes=2))
    with refused("torchao", "pip install", "optimizer=adam"):
        make_optimizers(recipe, made, turns(recipe, made))
