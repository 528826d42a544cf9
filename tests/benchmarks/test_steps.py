"""What is raced is the same training: plain iterations give the same weights, without any of the faster kernels."""

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from d2o.discriminators import Projected
from d2o.kernels.convolution import Convolution
from d2o.objectives import Adversarial
from d2o.training import recipes
from d2o.training.networks import new_denoiser
from d2o.training.recipe import Recipe

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
import steps

RECIPE: Recipe = replace(
    recipes.D2O_F,
    batch_size=4,
    discriminator=Projected(weights="random", size=32, width=16),
    objectives=(Adversarial(r1=1e-3, r1_every=4, fresh_fakes=True),),
)
TINY = {**recipes.BACKBONES["tiny"], "channels": 8, "attention_resolutions": [4]}


@pytest.fixture(scope="module")
def teacher() -> Any:
    return new_denoiser(TINY, (1, 8, 8), 2)


def racer(teacher: Any, way: str) -> Any:
    torch.manual_seed(0)
    return steps.Racer(RECIPE, teacher, way)


def test_ours_and_plain_ones_train_alike(teacher: Any) -> None:
    """With fresh fakes in both, the only differences are roundings."""
    ours, plain = racer(teacher, "later"), racer(teacher, "plain")
    frozen = {name for name, p in ours.networks.student.named_parameters() if not p.requires_grad}
    assert frozen
    ours.step()
    plain.step()
    before, others = (dict(network.named_parameters()) for network in (teacher, plain.networks.student))
    for name, parameter in ours.networks.student.named_parameters():
        assert torch.allclose(parameter, others[name], atol=3e-4), name
        assert torch.equal(parameter, before[name]) == (name in frozen)
        assert torch.equal(others[name], before[name]) == (name in frozen)


def test_plain_ones_use_none_of_the_faster_kernels(teacher: Any) -> None:
    plain, ours = racer(teacher, "plain"), racer(teacher, "first_pass")
    plain.step()
    batch_norms = [
        sum(isinstance(module, torch.nn.BatchNorm2d) for module in one.networks.discriminator.pyramids.modules())
        for one in (plain, ours)
    ]
    assert batch_norms[0] > 20
    assert batch_norms[1] == 0
    assert [len(one.networks.discriminator.caches[0].rows) for one in (plain, ours)] == [0, 4]
    weight = next(p for name, p in plain.networks.student.named_parameters() if name.endswith("conv0.weight"))
    assert weight.is_contiguous()
    assert weight.grad is not None
    layer, kept = Convolution(4, 4, 3, padding=1).requires_grad_(False), []
    with steps.plain_kernels(), torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t.shape), lambda t: t):
        layer(torch.randn(2, 4, 8, 8, requires_grad=True))
    assert (2, 4, 8, 8) in kept
    assert torch.channels_last is not torch.contiguous_format


def test_all_figures_are_measured(teacher: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(steps, "ROUND", 2)
    monkeypatch.setattr(steps, "measure_memory", lambda *_: 1.0)
    found = steps.measure({"d2o_f": replace(RECIPE, objectives=(Adversarial(r1=1e-3, r1_every=2),))}, teacher, 1, [])
    assert set(found["ratio"]) == {"d2o_f_later", "d2o_f_first_pass", "d2o_f_plain"} == set(found["spread"])
    assert found["ratio"]["d2o_f_plain"] == 1
    needed = found["gflop_an_image"]
    assert needed["d2o_f_later"] < needed["d2o_f_first_pass"] < needed["d2o_f_plain"]
