"""What is frozen is held once: by the student, its averages, and its teacher."""

from dataclasses import replace

import pytest
import torch

import d2o
from d2o.objectives import Consistency, Progressive
from d2o.training.freezing import count_frozen
from d2o.training.loop import train
from d2o.training.networks import networks
from d2o.training.presets import noise_batches
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
    assert count_bytes(made.student, teacher) == 8 * share.total  # the model that was given is left as it is


def test_training_moves_what_moves_alone(teacher, recipe):
    before = {name: tensor.clone() for name, tensor in teacher.state_dict().items()}
    made = networks(replace(recipe, objectives=(*recipe.objectives, Progressive(steps=2))), teacher)
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
