"""What is frozen is held once: by the student, its averages, and its teacher."""

import gc
import sys
import weakref
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import d2o
from d2o.kernels.storage import settle
from d2o.objectives import Consistency, Progressive
from d2o.planning.presets import noise_batches
from d2o.training import fit
from d2o.training.freezing import count_frozen
from d2o.training.loop import train
from d2o.training.networks import networks
from d2o.training.recipes import find_recipe


def count_bytes(*modules):
    tensors = [p for module in modules for p in module.parameters()]
    return sum({p.untyped_storage().data_ptr(): p.untyped_storage().nbytes() for p in tensors}.values())


@pytest.fixture(scope="module")
def teacher():
    return d2o.load("digits-small")


@pytest.fixture
def recipe():
    recipe = find_recipe("digits-d2o-f")
    judge = replace(recipe.discriminator, weights="random")
    return replace(recipe, discriminator=judge, batch_size=4, duration=64)


def test_each_network_more_costs_what_moves(teacher, recipe):
    made = networks(replace(recipe, objectives=(*recipe.objectives, Consistency())), teacher)
    share = count_frozen(made.student)
    moving = 4 * (share.total - share.frozen)
    assert count_bytes(made.student) == 4 * share.total
    assert count_bytes(made.student, made.ema) == 4 * share.total + moving
    assert count_bytes(made.student, made.ema, made.target, made.teacher) == 4 * share.total + 3 * moving
    assert count_bytes(made.student, teacher) > 6 * share.total, "its images would lie in memory otherwise"


def test_the_model_that_was_given_shares_what_lies_as_students_do(recipe):
    given = d2o.load("digits-small").to(memory_format=torch.channels_last)
    made = networks(recipe, given)
    share = count_frozen(made.student)
    moving = 4 * (share.total - share.frozen)
    assert count_bytes(made.student, given) == 4 * share.total + moving
    assert all(parameter.requires_grad for parameter in given.parameters())
    assert not {*map(id, given.parameters())} & {*map(id, made.student.parameters())}
    every = networks(replace(recipe, frozen=()), given)
    assert count_bytes(every.student, given) == 8 * share.total


def test_a_run_holds_no_more_of_its_teacher_than_it_needs(recipe, tmp_path, monkeypatch):
    """Of a teacher by name, nothing but the frozen tensors is left when training begins."""
    seen: list[weakref.ref] = []
    load = fit.checkpoints.load

    def watched(name):
        model = load(name)
        seen.append(weakref.ref(model.backbone))
        return model

    def watch(moments, duration, title):
        gc.collect()
        assert seen[0]() is None
        *_, moment = moments
        networks = moment.progress.networks
        share = count_frozen(networks.student)
        assert count_bytes(networks.student, networks.ema) == 4 * (2 * share.total - share.frozen)

    monkeypatch.setattr(fit.checkpoints, "load", watched)
    d2o.finetune("digits-small", "digits", replace(recipe, duration=8), out=tmp_path / "run", watch=watch)


def test_a_settled_model_no_longer_holds_its_file(teacher, tmp_path):
    file = tmp_path / "model.safetensors"
    d2o.save(file, teacher)
    model = d2o.load(file)
    if sys.platform == "linux":
        assert str(file) in Path("/proc/self/maps").read_text(), "a loaded model lies in its file"
    assert settle(model) is model
    gc.collect()
    if sys.platform == "linux":
        assert str(file) not in Path("/proc/self/maps").read_text()
    assert all(p.is_contiguous(memory_format=torch.channels_last) for p in model.parameters() if p.dim() == 4)
    assert all(torch.equal(tensor, teacher.state_dict()[name]) for name, tensor in model.state_dict().items())


def test_training_moves_what_moves_alone(teacher, recipe):
    before = {name: tensor.clone() for name, tensor in teacher.state_dict().items()}
    made = networks(replace(recipe, objectives=(*recipe.objectives, Progressive(steps=2))), teacher)
    assert made.teacher is not None
    frozen = {name for name, parameter in made.student.named_parameters() if not parameter.requires_grad}
    run = train(replace(recipe, objectives=recipe.objectives), made, noise_batches(made.student, 4))
    for _ in range(3):
        next(run)
    for network in (made.student, made.ema, made.teacher):
        state = network.state_dict()
        assert all(torch.equal(state[name], before[name]) for name in frozen)
    moved = [name for name, tensor in made.ema.state_dict().items() if not torch.equal(tensor, before[name])]
    assert moved and not frozen.intersection(moved)
    assert all(torch.equal(tensor, before[name]) for name, tensor in made.teacher.state_dict().items())
    assert all(torch.equal(tensor, before[name]) for name, tensor in teacher.state_dict().items())


def test_nothing_is_shared_where_all_moves(teacher, recipe):
    made = networks(replace(recipe, frozen=()), teacher)
    assert count_bytes(made.student, made.ema) == 2 * count_bytes(made.student)
