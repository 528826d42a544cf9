"""Frozen weights in bfloat16 take half the memory and are rounded once; all that computes with them is as before."""

from copy import deepcopy
from dataclasses import replace
from itertools import islice
from typing import Any

import pytest
import torch

import d2o
from d2o.checkpoints import native
from d2o.diffusion.sampling import generate
from d2o.kernels.storage import narrow_frozen, restore, widen_layers
from d2o.objectives import Consistency
from d2o.training.loop import train
from d2o.training.networks import networks
from d2o.training.run import Habits
from d2o.training.state import list_frozen

from .tiny import RECIPES, stream

RECIPE = replace(RECIPES["d2o-f"], objectives=(*RECIPES["d2o-f"].objectives, Consistency()))
NARROW = replace(RECIPE, frozen_precision="bfloat16")


def images_of(denoiser):
    return torch.cat(list(generate(denoiser, range(4), steps=1)))


def rounded(denoiser):
    """Return a copy in float32 whose frozen matrices have been rounded."""
    copy = deepcopy(denoiser)
    for parameter in list_frozen(copy).values():
        if parameter.dim() > 1:
            parameter.data = parameter.data.bfloat16().float()
    return copy


@pytest.fixture
def plain(tiny_denoiser):
    return networks(RECIPE, tiny_denoiser(classes=2))


@pytest.fixture
def narrow(tiny_denoiser):
    return networks(NARROW, tiny_denoiser(classes=2))


def test_frozen_matrices_take_half_the_bytes_once(plain, narrow):
    sizes = [sum(p.nbytes for p in list_frozen(m.student).values() if p.dim() > 1) for m in (plain, narrow)]
    assert sizes[0] == 2 * sizes[1] > 0
    frozen = list_frozen(narrow.student)
    for network in (narrow.ema, narrow.target, narrow.teacher):
        assert all(dict(network.named_parameters())[name] is parameter for name, parameter in frozen.items())
    assert all(p.dtype == torch.float32 for p in narrow.student.parameters() if p.requires_grad)


def test_images_are_those_of_rounded_weights_to_the_bit(plain, narrow):
    wanted, found = images_of(rounded(plain.student)), images_of(narrow.student)
    assert torch.equal(found, wanted)
    assert 0 < (found - images_of(plain.student)).abs().max() < 0.05
    teacher = narrow.teacher.replace(preconditioning=narrow.ema.preconditioning)
    assert torch.equal(images_of(teacher), images_of(narrow.ema))


def test_gradients_are_those_of_rounded_weights(plain, narrow):
    x, found = torch.randn(2, 1, 8, 8), []
    for network in (rounded(plain.student), narrow.student):
        network(x, 2.0, torch.tensor([0, 1])).square().sum().backward()
        found.append([p.grad for p in network.parameters() if p.grad is not None])
    assert len(found[0]) > 10 and all(torch.equal(a, b) for a, b in zip(*found, strict=True))


def test_what_a_layer_keeps_for_the_gradient_of_its_input():
    layer = torch.nn.Linear(64, 64)
    layer.weight.requires_grad_(False)
    narrow_frozen(layer)
    wide: list[Any] = []
    layer.register_forward_hook(lambda layer, *_: wide.append(layer.weight), prepend=True)
    x = torch.randn(4, 64, requires_grad=True)
    y = layer(x)
    assert wide[0].dtype == torch.float32 and layer.weight.dtype == torch.bfloat16
    wide[0].zero_()  # nothing of the wide copy is needed any more
    y.sum().backward()
    torch.testing.assert_close(x.grad, layer.weight.float().sum(0).expand(4, -1))


def test_a_layer_has_its_weights_back_after_an_error_and_is_widened_once():
    layer = torch.nn.Conv2d(2, 2, 3).requires_grad_(False)
    narrow_frozen(layer)
    weight = layer.weight
    widen_layers(layer)
    assert [*layer._forward_hooks.values()].count(restore) == 1
    with pytest.raises(RuntimeError):
        layer(torch.ones(1, 5, 4, 4))
    assert layer.weight is weight and weight.dtype == torch.bfloat16


def test_under_autocast_products_take_the_weights_as_they_are():
    layer = torch.nn.Linear(8, 8).requires_grad_(False)
    narrow_frozen(layer)
    seen: list[Any] = []
    layer.register_forward_hook(lambda layer, *_: seen.append(layer.weight), prepend=True)
    with torch.autocast("cpu", torch.bfloat16):
        assert layer(torch.ones(1, 8)).dtype == torch.bfloat16
    assert seen[0] is layer.weight


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_run_resumes_to_the_same_bits(tiny_denoiser, precision):
    recipe = replace(NARROW, precision=precision)
    *_, progress = train(recipe, networks(recipe, tiny_denoiser(classes=2)), stream())
    wanted = progress.state()[0]
    *_, progress = islice(train(recipe, networks(recipe, tiny_denoiser(classes=2)), stream()), 3)
    tensors, numbers = progress.state()
    state = {name: tensor.clone() for name, tensor in tensors.items()}, numbers
    made = networks(recipe, tiny_denoiser(classes=2))
    *_, progress = train(recipe, made, stream(start=numbers["images"]), resume=state)
    found = progress.state()[0]
    assert found.keys() == wanted.keys()
    assert [name for name, tensor in wanted.items() if not torch.equal(found[name], tensor)] == []


def test_saved_students_differences_and_unfinished_runs_are_ordinary_models(tiny_denoiser, tiny_data, tmp_path):
    teacher = tmp_path / "teacher.safetensors"
    d2o.save(teacher, tiny_denoiser(classes=2))
    recipe = replace(RECIPES["d2o-f"], frozen_precision="bfloat16")
    result = d2o.finetune(teacher, tiny_data, recipe, out=tmp_path / "run", habits=Habits(sample_every=1 << 30))
    saved, _ = native.read(tmp_path / "run/ema.safetensors")
    assert {tensor.dtype for tensor in saved.values()} == {torch.bfloat16, torch.float32}
    assert {parameter.dtype for parameter in result.denoiser.parameters()} == {torch.float32}
    wanted = images_of(result.denoiser)
    assert torch.equal(images_of(d2o.load(tmp_path / "run/checkpoint.safetensors")), wanted)
    d2o.save(tmp_path / "delta.safetensors", result.denoiser, base=d2o.load(teacher))
    assert torch.equal(images_of(d2o.load(tmp_path / "delta.safetensors", base=teacher)), wanted)
    sizes = [(tmp_path / name).stat().st_size for name in ("delta.safetensors", "run/ema.safetensors")]
    assert sizes[0] < 0.8 * sizes[1]
