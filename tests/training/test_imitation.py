"""Runs that imitate a teacher: what follows the student, rounds, resuming, and a teacher that is missing."""

from dataclasses import replace
from itertools import islice
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from d2o import checkpoints
from d2o.diffusion.families import EDM, Boundary, Epsilon
from d2o.export import export
from d2o.objectives import Adversarial, Consistency, DistributionMatching, Progressive, ReverseConsistency, Trajectory
from d2o.objectives.distance import Lpips
from d2o.objectives.objective import Networks
from d2o.training import loop
from d2o.training import networks as makers
from d2o.training.freezing import CONVOLUTIONS
from d2o.training.loop import train
from d2o.training.optimizers import tensors_of
from d2o.training.recipes import METHODS
from refusal import refused

from .tiny import ADVERSARIAL, BATCH, parameters_of, stream

CD = replace(ADVERSARIAL, objectives=(Consistency(target_half_life=float(BATCH)),))
PD = replace(ADVERSARIAL, objectives=(Progressive(steps=8),))  # six iterations, rounds from 0, 2 and 4
RECIPES = {
    "cd": CD,
    "pd": PD,
    "ctm": replace(ADVERSARIAL, objectives=(Trajectory(),)),
    "dmd": replace(
        ADVERSARIAL, objectives=(DistributionMatching(fake_steps=2),), betas=(0.9, 0.999), micro_batch_size=2
    ),
    "dmd with a head": replace(
        ADVERSARIAL, objectives=(DistributionMatching(fake_steps=2, gan=0.1),), frozen=CONVOLUTIONS
    ),
    "rcd and gan": replace(ADVERSARIAL, objectives=(ReverseConsistency(), Adversarial(r1_every=2))),
    "pd and gan": replace(ADVERSARIAL, objectives=(Progressive(steps=8), Adversarial(r1_every=2))),
    "two steps": replace(ADVERSARIAL, objectives=(Adversarial(middle_sigmas=(0.8,), augmentation=("cutout",)),)),
}


def networks(recipe: Any, teacher: Any) -> Any:
    return makers.networks(recipe, teacher)


@pytest.mark.parametrize(
    ("recipe", "after"),
    [*((recipe, 3) for recipe in RECIPES.values()), (PD, 2), (PD, 4)],
    ids=[*RECIPES, "pd after a round", "pd after two rounds"],
)
def test_a_resumed_run_is_the_run_bit_for_bit(tiny_denoiser, tmp_path, recipe, after):
    *_, progress = train(recipe, networks(recipe, tiny_denoiser(classes=2)), stream())
    wanted = progress.state()
    *_, progress = islice(train(recipe, networks(recipe, tiny_denoiser(classes=2)), stream()), after)
    tensors, numbers = progress.state()
    save_file({name: tensor.contiguous().clone() for name, tensor in tensors.items()}, tmp_path / "state.safetensors")
    tensors = load_file(tmp_path / "state.safetensors")
    made = networks(recipe, tiny_denoiser(classes=2))
    for network in (made.student, made.target, made["fake"]):  # nothing is left of them
        for parameter in network.parameters() if network is not None else ():
            torch.nn.init.normal_(parameter.data)
    *_, progress = train(recipe, made, stream(start=numbers["images"]), resume=(tensors, numbers))
    got = progress.state()
    assert got[1] == wanted[1] and got[0].keys() == wanted[0].keys()
    assert [name for name in wanted[0] if not torch.equal(got[0][name], wanted[0][name])] == []


def test_the_target_is_a_short_average_of_the_student(tiny_denoiser):
    made = networks(CD, tiny_denoiser(classes=2))
    expected = parameters_of(made.target)
    for _ in train(CD, made, stream()):
        expected = {n: (expected[n] + p.detach()) / 2 for n, p in made.student.named_parameters()}
    for name, parameter in made.target.named_parameters():
        torch.testing.assert_close(parameter, expected[name], rtol=1e-5, atol=1e-6)
        assert not parameter.requires_grad


def test_after_each_round_the_teacher_is_the_students_copy(tiny_denoiser):
    teacher = tiny_denoiser(classes=2)
    made, given = networks(PD, teacher), parameters_of(teacher)
    before, at = parameters_of(made.teacher), []
    for number, _ in enumerate(train(PD, made, stream()), 1):
        after, student = parameters_of(made.teacher), parameters_of(made.student)
        if any(not torch.equal(after[n], before[n]) for n in before):
            at.append(number)
            assert all(torch.equal(after[n], student[n]) for n in after)
        before = after
    assert at == [2, 4]  # the third round ends with the run
    assert all(torch.equal(p, given[n]) for n, p in teacher.named_parameters())


def test_every_round_starts_afresh(tiny_denoiser, monkeypatch):
    """At its start there are no moments, the rate is the schedule's first, and the average is the student."""
    recipe = replace(PD, learning_rate_decay="cosine")
    made, fresh, take_turn = networks(recipe, tiny_denoiser(classes=2)), [], loop.take_turn

    def watched(turn, optimizer, networks, *rest):
        student, average = parameters_of(networks.student), parameters_of(networks.ema)
        alike = all(torch.equal(student[name], average[name]) for name in student)
        fresh.append((not tensors_of(optimizer), alike))
        return take_turn(turn, optimizer, networks, *rest)

    monkeypatch.setattr(loop, "take_turn", watched)
    rates = [progress.learning_rate for progress in train(recipe, made, stream())]
    assert [both == (True, True) for both in fresh] == [True, False, True, False, True, False]
    assert rates[0] == rates[2] == rates[4] == 1e-3 and rates[1] == rates[3] == rates[5]


def test_what_a_run_delivers_is_of_its_last_round_alone(tiny_denoiser):
    made = networks(PD, tiny_denoiser(classes=2))
    students = [parameters_of(progress.networks.student) for progress in train(PD, made, stream())]
    for name, average in made.ema.named_parameters():
        first, second, third = (student[name] for student in students[-3:])
        kept = 0.5**0.5  # of a half-life of two batches
        wanted = kept * (kept * first + (1 - kept) * second) + (1 - kept) * third
        torch.testing.assert_close(average, wanted, rtol=1e-5, atol=1e-6)


def test_only_consistency_and_the_gan_take_the_boundary_form(tiny_denoiser):
    forms = {
        name: type(
            networks(replace(recipe, discriminator=ADVERSARIAL.discriminator), tiny_denoiser()).student.preconditioning
        )
        for name, recipe in METHODS.items()
        if name in ("d2o", "cd", "pd", "ctm", "rcd", "cd-gan", "pd-gan", "pretrain")
    }
    assert {name for name, form in forms.items() if form is Boundary} == {"d2o", "cd", "cd-gan", "pd-gan"}
    assert set(forms.values()) == {Boundary, EDM}


def test_students_of_trajectories_are_saved_and_loaded(tiny_denoiser, tmp_path):
    recipe = RECIPES["ctm"]
    *_, progress = train(recipe, networks(recipe, tiny_denoiser(classes=2)), stream())
    checkpoints.save(tmp_path / "student.safetensors", progress.ema)
    again = checkpoints.load(tmp_path / "student.safetensors")
    x, label = torch.randn(2, 1, 8, 8), torch.tensor([0, 1])
    with torch.no_grad():
        torch.testing.assert_close(again(x, 80.0, label), progress.ema(x, 80.0, label), rtol=1e-4, atol=1e-5)


def test_a_generator_of_two_steps_remembers_them_in_its_file(tiny_denoiser, tmp_path):
    made = networks(RECIPES["two steps"], tiny_denoiser())
    assert made.student.middle_sigmas == made.ema.middle_sigmas == (0.8,)
    checkpoints.save(tmp_path / "a.safetensors", made.ema)
    assert checkpoints.load(tmp_path / "a.safetensors").middle_sigmas == (0.8,)
    assert networks(ADVERSARIAL, checkpoints.load(tmp_path / "a.safetensors")).student.middle_sigmas == ()
    with refused("2", "safetensors"):
        export(made.ema, tmp_path / "a.onnx", to="onnx")


class TestMistakes:
    def test_no_teacher(self, tiny_denoiser):
        student = tiny_denoiser()
        with refused("consistency", "teacher"):
            next(train(CD, Networks(student, student), stream()))
        with refused("denoiser", "NoneType"):
            makers.networks(CD, None)  # type: ignore[arg-type]

    def test_steps_above_the_models_own_start(self, tiny_denoiser):
        recipe = replace(ADVERSARIAL, objectives=(Adversarial(middle_sigmas=(24.0, 5.0)),))
        teacher = tiny_denoiser()
        teacher.preconditioning = Epsilon("scaled_linear", 0.00085, 0.012)  # Stable Diffusion's
        with refused("24", "14.6"):
            makers.networks(recipe, teacher)

    def test_lpips_without_weights(self, tiny_denoiser, monkeypatch):
        monkeypatch.delenv("D2O_WEIGHTS", raising=False)
        recipe = replace(CD, objectives=(Consistency(distance=Lpips()),))
        with refused("vgg16", "D2O_WEIGHTS"):
            networks(recipe, tiny_denoiser())

    def test_a_backbone_that_cannot_jump(self, tiny_denoiser):
        teacher = tiny_denoiser()
        teacher.backbone = torch.nn.Identity()
        with refused("Identity", "augmentation"):
            networks(RECIPES["ctm"], teacher)
