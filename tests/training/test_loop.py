"""The loop: what moves, what is averaged, and that pieces add up to the whole."""

from dataclasses import replace
from itertools import islice
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from d2o.diffusion.sampling import generate
from d2o.features.embedding import embedding
from d2o.metrics.sample import Stream, measure
from d2o.objectives import Adversarial, Consistency, Denoising, Progressive
from d2o.training import loop, optimizers
from d2o.training import networks as makers
from d2o.training.loop import PATIENCE, Diverged, schedule, train, turns
from d2o.training.recipe import Recipe
from refusal import refused

from .tiny import ADVERSARIAL, BATCH, RECIPES, parameters_of, plain_steps, stream


def networks(recipe, teacher) -> Any:  # what they are is each test's business
    return makers.networks(recipe, teacher)


def last(recipe, made, batches=None, **options):
    *_, progress = train(recipe, made, batches or stream(), **options)
    return progress


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_moves_exactly_the_parameters_that_it_should(tiny_denoiser, name):
    recipe, teacher = replace(RECIPES[name], duration=2 * BATCH), tiny_denoiser(classes=2)
    given = parameters_of(teacher)
    made = networks(recipe, teacher)
    before = parameters_of(made.student)
    judge = dict(made.discriminator.named_parameters()) if recipe.needs else {}
    judge_before = {n: p.detach().clone() for n, p in judge.items()}
    progress = last(recipe, made)
    role = made.student.backbone.role
    assert any(role(n.removeprefix("backbone.")) in recipe.frozen for n in before) == bool(recipe.frozen)
    for part, network in (("student", made.student), ("ema", progress.ema)):
        for n, parameter in network.named_parameters():
            frozen = role(n.removeprefix("backbone.")) in recipe.frozen
            assert torch.equal(parameter, before[n]) == frozen, (part, n)
    for n, parameter in judge.items():
        assert torch.equal(parameter, judge_before[n]) != n.startswith("heads."), n
    assert all(torch.equal(parameter, given[n]) for n, parameter in teacher.named_parameters())


def test_pretrained_starts_from_the_teacher_and_scratch_from_the_seed(tiny_denoiser):
    teacher = tiny_denoiser(classes=2)
    pretrained = networks(ADVERSARIAL, teacher).student.state_dict()
    scratch, again, other = (
        networks(replace(ADVERSARIAL, pretrained=False, seed=seed), teacher).student.state_dict() for seed in (1, 1, 2)
    )
    assert all(torch.equal(tensor, pretrained[name]) for name, tensor in teacher.state_dict().items())
    assert all(torch.equal(tensor, scratch[name]) for name, tensor in again.items())
    weights = [name for name, tensor in scratch.items() if tensor.dim() > 1 and "resample" not in name]
    assert all(not torch.equal(scratch[name], seen[name]) for name in weights for seen in (other, pretrained))


def test_the_yielded_networks_are_whole_and_free_of_gradients(tiny_denoiser):
    recipe = RECIPES["d2o-f"]
    made = networks(recipe, tiny_denoiser(classes=2))
    moving = {n: p.requires_grad for n, p in made.student.named_parameters()}
    iteration = 0
    for progress in train(recipe, made, stream()):
        iteration += 1
        assert {n: p.requires_grad for n, p in made.student.named_parameters()} == moving
        assert all(p.grad is None for p in [*made.student.parameters(), *made.discriminator.parameters()])
        assert (progress.iteration, progress.images, progress.skipped) == (iteration, iteration * BATCH, 0)
        assert set(progress.losses) == {"student", "discriminator"} | ({"r1"} if iteration in (3, 5) else set())
    assert iteration * BATCH == recipe.duration


def test_the_average_is_that_of_the_weights_seen(tiny_denoiser):
    recipe = replace(RECIPES["d2o-f"], ema_half_life=float(BATCH))  # half of it is gone in every iteration
    made = networks(recipe, tiny_denoiser(classes=2))
    expected = parameters_of(made.ema)
    for _ in train(recipe, made, stream()):
        expected = {n: (expected[n] + p.detach()) / 2 for n, p in made.student.named_parameters()}
    for n, parameter in made.ema.named_parameters():
        torch.testing.assert_close(parameter, expected[n], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("size", [1, 2, 3])
def test_micro_batches_give_the_step_of_the_whole_batch(tiny_denoiser, monkeypatch, size):
    monkeypatch.setattr(optimizers, "Adam", plain_steps)
    recipe = replace(RECIPES["pretrain"], pretrained=True, duration=2 * BATCH, learning_rate=0.01)
    weights = []
    for micro_batch_size in (None, size):
        made = networks(recipe, tiny_denoiser(classes=2))
        before = parameters_of(made.student)
        last(replace(recipe, micro_batch_size=micro_batch_size), made)
        weights.append(parameters_of(made.student))
    assert max(float((weights[0][n] - before[n]).abs().max()) for n in before) > 1e-2
    for n in before:
        torch.testing.assert_close(weights[1][n], weights[0][n], rtol=1e-4, atol=1e-5)


def test_objectives_add_up_with_their_weights(tiny_denoiser):
    recipe = replace(ADVERSARIAL, objectives=(Denoising(weight=0.5), Adversarial(weight=2.0, r1=0)), duration=BATCH)
    alone = {
        kind: last(
            replace(recipe, objectives=(replace(objective, weight=1.0),)),
            networks(recipe, tiny_denoiser(classes=2)),
        ).losses["student"]
        for kind, objective in zip(("denoising", "adversarial"), recipe.objectives, strict=True)
    }
    both = last(recipe, networks(recipe, tiny_denoiser(classes=2)))
    assert both.losses["student"] == pytest.approx(0.5 * alone["denoising"] + 2 * alone["adversarial"], rel=1e-5)
    assert [row.name for row in turns(recipe, both.networks)] == ["student", "discriminator"]


def test_lazy_r1_shortens_the_memory_of_the_discriminators_optimiser(tiny_denoiser):
    made = networks(ADVERSARIAL, tiny_denoiser(classes=2))
    recipe = replace(ADVERSARIAL, objectives=(Adversarial(r1_every=16),), betas=(0.5, 0.99))
    rows = turns(recipe, made)
    assert [(row.name, row.network, row.every) for row in rows] == [
        ("student", "student", 1),
        ("discriminator", "discriminator", 1),
        ("r1", "discriminator", 16),
    ]
    made_by_name = optimizers.make_optimizers(recipe, made, rows)
    assert made_by_name["discriminator"].defaults["betas"] == (0.5 ** (16 / 17), 0.99 ** (16 / 17))
    assert made_by_name["discriminator"].defaults["lr"] == pytest.approx(1e-3 * 16 / 17)
    assert made_by_name["student"].defaults["betas"] == (0.5, 0.99)


@pytest.mark.parametrize("every", [1, 3])
def test_r1_is_left_out_of_the_first_iteration_unless_it_is_in_all(tiny_denoiser, every):
    recipe = replace(ADVERSARIAL, objectives=(Adversarial(r1=1e-3, r1_every=every),), duration=7 * BATCH)
    taken = ["r1" in progress.losses for progress in train(recipe, networks(recipe, tiny_denoiser()), stream())]
    assert taken == [every == 1 or (number > 0 and number % every == 0) for number in range(7)]


EDM2 = {"kind": "edm2_unet", "channels": 16, "channel_multipliers": [1], "num_blocks": 1, "head_channels": 8}
STUDENTS = {
    "pretraining": RECIPES["pretrain"],
    "d2o": ADVERSARIAL,
    "d2o-f": RECIPES["d2o-f"],
    "cd": replace(ADVERSARIAL, objectives=(Consistency(),)),
    "pd": replace(ADVERSARIAL, objectives=(Progressive(steps=4),)),
}


@pytest.mark.parametrize("recipe", STUDENTS.values(), ids=STUDENTS)
def test_weights_of_edm2_keep_their_magnitude_in_every_training(recipe):
    """Gradients are orthogonal to weights that are divided by their norm, so that these would grow with each step."""
    teacher = makers.new_denoiser(EDM2, (1, 8, 8), 2)
    with torch.no_grad():
        for parameter in teacher.parameters():
            parameter.fill_(0.8) if parameter.dim() == 0 else parameter.mul_(1.5)
    recipe = replace(recipe, pretrained=True, learning_rate=0.03)
    made = networks(recipe, teacher)
    trained = {name for name, p in made.student.named_parameters() if p.requires_grad and p.dim() > 0}
    last(recipe, made)
    norms = {name: p.flatten(1).square().mean(1).sqrt() for name, p in made.student.named_parameters() if p.dim() > 0}
    assert all((norms[name] - 1).abs().max() < 0.05 for name in trained), "about 0.03 in the last step"
    before = dict(teacher.named_parameters())
    assert all(torch.equal(p, before[name]) for name, p in made.student.named_parameters() if not p.requires_grad)


def start_training(denoiser):
    next(train(RECIPES["d2o"], networks(RECIPES["d2o"], denoiser), stream()))


def measure_images(_denoiser):
    measure(Stream("black", 8, (1, 8, 8), iter([np.zeros((8, 8, 8, 1), np.uint8)])), embedding("pixels"))


@pytest.mark.parametrize("work", [start_training, lambda denoiser: next(generate(denoiser, [0])), measure_images])
def test_float32_is_not_tf32(tiny_denoiser, work):
    settings: Any = torch.backends.cuda.matmul, torch.backends.cudnn
    before = [one.allow_tf32 for one in settings]
    try:
        for one in settings:
            one.allow_tf32 = True
        work(tiny_denoiser(classes=2))
        assert [one.allow_tf32 for one in settings] == [False, False]
    finally:
        for one, value in zip(settings, before, strict=True):
            one.allow_tf32 = value


def test_tf32_is_for_iterations_alone(tiny_denoiser, monkeypatch):
    """What looks at the networks between two of them sees float32."""
    states: dict[bool, list[bool]] = {}
    for wanted in (True, False):
        during = states[wanted] = []
        turns = loop.take_turn
        monkeypatch.setattr(
            loop,
            "take_turn",
            lambda *given, turns=turns, during=during: (
                during.append(torch.backends.cuda.matmul.allow_tf32) or turns(*given)
            ),
        )
        recipe = replace(RECIPES["d2o"], tf32=wanted)
        for _ in islice(train(recipe, networks(recipe, tiny_denoiser(classes=2)), stream()), 2):
            assert not torch.backends.cuda.matmul.allow_tf32 and not torch.backends.cudnn.allow_tf32
        monkeypatch.undo()
    assert set(states[True]) == {True} and set(states[False]) == {False}


RESUMED = {
    "pretrain with dropout": (RECIPES["pretrain"], {"dropout": 0.3}),
    "pretrain in micro batches": (replace(RECIPES["pretrain"], micro_batch_size=3), {"dropout": 0.3}),
    "d2o-f": (RECIPES["d2o-f"], {}),
    "d2o with fresh fakes": (replace(ADVERSARIAL, objectives=(Adversarial(r1_every=2, fresh_fakes=True),)), {}),
    "d2o with crops": (replace(ADVERSARIAL, objectives=(Adversarial(r1=1e-3, r1_every=2, judged="crops"),)), {}),
}


@pytest.mark.parametrize(("recipe", "config"), RESUMED.values(), ids=RESUMED)
def test_a_resumed_run_is_the_run_bit_for_bit(tiny_denoiser, tmp_path, recipe, config):
    wanted = last(recipe, networks(recipe, tiny_denoiser(classes=2, **config))).state()

    first = networks(recipe, tiny_denoiser(classes=2, **config))
    *_, progress = islice(train(recipe, first, stream()), 3)
    tensors, numbers = progress.state()
    save_file(
        {name: tensor.clone(memory_format=torch.contiguous_format) for name, tensor in tensors.items()},
        tmp_path / "state.safetensors",
    )
    tensors = load_file(tmp_path / "state.safetensors")
    other = networks(
        replace(recipe, seed=9), tiny_denoiser(seed=5, classes=2, **config)
    )  # nothing is left of the first
    torch.manual_seed(12345)
    got = last(recipe, other, stream(start=numbers["images"]), resume=(tensors, numbers)).state()

    assert got[1] == wanted[1] and got[0].keys() == wanted[0].keys()
    assert [name for name in wanted[0] if not torch.equal(got[0][name], wanted[0][name])] == []


def test_a_finished_run_resumes_to_nothing(tiny_denoiser):
    recipe = RECIPES["pretrain"]
    made = networks(recipe, tiny_denoiser(classes=2))
    state = last(recipe, made).state()
    assert list(train(recipe, made, stream(), resume=state)) == []


class TestDivergence:
    def test_weights_that_are_not_numbers_stop_the_run(self, tiny_denoiser):
        made = networks(RECIPES["pretrain"], tiny_denoiser(classes=2))
        recipe = replace(RECIPES["pretrain"], duration=1000)
        with torch.no_grad():
            made.student.backbone.map_layer0.weight[0, 0] = float("nan")
        before = parameters_of(made.student)
        seen = []
        with refused("student", f"{PATIENCE} steps", f"image {(PATIENCE - 1) * BATCH}", error=Diverged):
            seen.extend(progress.skipped for progress in train(recipe, made, stream()))
        assert seen == list(range(1, PATIENCE))
        for n, parameter in made.student.named_parameters():
            assert torch.equal(parameter.nan_to_num(7), before[n].nan_to_num(7))

    @pytest.mark.parametrize("name", ["pretrain", "d2o-f"])
    def test_a_single_bad_batch_is_left_out_and_counted(self, tiny_denoiser, name):
        def spoiled():
            for number, (x0, label, index) in enumerate(stream()):
                yield (x0 * float("nan") if number == 1 else x0), label, index

        recipe = RECIPES[name]
        made = networks(recipe, tiny_denoiser(classes=2))
        progress = last(recipe, made, spoiled())
        assert progress.skipped == 1 and progress.images == recipe.duration
        assert all(p.isfinite().all() for p in [*made.student.parameters(), *made.ema.parameters()])
        if made.discriminator is not None:
            assert all(p.isfinite().all() for p in made.discriminator.parameters())


class TestSchedule:
    RECIPE = Recipe(objectives=(Denoising(),), duration=1000, batch_size=10)

    def test_constant(self):
        assert [schedule(self.RECIPE, n) for n in (0, 500, 990)] == [1, 1, 1]

    def test_linear_falls_over_the_second_half(self):
        recipe = replace(self.RECIPE, learning_rate_decay="linear")
        assert [schedule(recipe, n) for n in (0, 500, 750, 1000, 1010)] == pytest.approx([1, 1, 0.5, 0, 0])

    def test_cosine_falls_over_all_of_it(self):
        recipe = replace(self.RECIPE, learning_rate_decay="cosine")
        assert [schedule(recipe, n) for n in (0, 250, 500, 1000)] == pytest.approx([1, 0.853553, 0.5, 0], abs=1e-6)

    def test_ramp_rises_from_the_first_batch_and_multiplies_the_decay(self):
        recipe = replace(self.RECIPE, learning_rate_ramp=100)
        assert [schedule(recipe, n) for n in (0, 40, 90, 500)] == pytest.approx([0.1, 0.5, 1, 1])
        both = replace(recipe, learning_rate_decay="linear", learning_rate_ramp=1000)
        assert schedule(both, 740) == pytest.approx(0.52 * 0.75)
