"""What is raced is the same training: equal losses where the mathematics is the same, and every second has a name."""

from dataclasses import replace

import pytest
import torch

from d2o.bench.measure import operations, training
from d2o.bench.problem import Problem, noise_images
from d2o.bench.steps import Steps, medians, race
from d2o.bench.stopwatch import Stopwatch
from d2o.data.datasets import Numbered
from d2o.discriminators import Projected
from d2o.kernels.convolution import Convolution
from d2o.kernels.switch import Switch, plainly
from d2o.objectives import Adversarial
from d2o.training import recipes
from d2o.training.networks import new_denoiser
from d2o.training.recipe import Recipe

CRITIC = Projected(weights="random", size=32, width=16)
RECIPE: Recipe = replace(
    recipes.D2O_F, batch_size=4, discriminator=CRITIC, objectives=(Adversarial(r1=1e-3, r1_every=4, fresh_fakes=True),)
)
TINY = {**recipes.BACKBONES["tiny"], "channels": 8, "attention_resolutions": [4]}


@pytest.fixture(scope="module")
def teacher():
    return new_denoiser(TINY, (1, 8, 8), 2)


def stream():
    """Yield batches of four random images without end, eight different ones in all."""
    images = torch.rand(8, 1, 8, 8, generator=torch.Generator().manual_seed(0)) * 2 - 1
    for start in range(0, 10_000, 4):
        index = torch.arange(start, start + 4)
        batch = Numbered(images[index % 8], index % 2, index)
        batch.number = index % 8
        yield batch


def steps(teacher, plain: bool, recipe: Recipe = RECIPE) -> Steps:
    return Steps(recipe, teacher, stream(), plain)


def test_ours_and_plain_ones_train_alike(teacher) -> None:
    """With fresh fakes in both, the only differences are roundings."""
    ours, plain = steps(teacher, False), steps(teacher, True)
    frozen = {name for name, p in ours.networks.student.named_parameters() if not p.requires_grad}
    assert frozen
    for _ in range(2):
        ours.step()
        plain.step()
    before = dict(teacher.named_parameters())
    others = dict(plain.networks.student.named_parameters())
    for name, parameter in ours.networks.student.named_parameters():
        assert torch.allclose(parameter, others[name], atol=3e-4), name
        assert torch.equal(parameter, before[name]) == (name in frozen)


def test_plain_ones_use_no_tricks(teacher) -> None:
    plain, ours = steps(teacher, True), steps(teacher, False)
    batch_norms = [
        sum(isinstance(module, torch.nn.BatchNorm2d) for module in s.networks.discriminator.pyramids.modules())  # type: ignore[union-attr]
        for s in (plain, ours)
    ]
    assert batch_norms[0] > 20
    assert batch_norms[1] == 0
    plain.step()
    ours.step()
    assert not plain.networks.discriminator.memories[0].places  # type: ignore[union-attr]
    assert len(ours.networks.discriminator.memories[0].places) == 4  # type: ignore[union-attr]
    weight = next(p for n, p in plain.networks.student.named_parameters() if n.endswith("conv0.weight"))
    assert weight.is_contiguous()
    assert weight.grad is not None


def test_the_switch_goes_back_and_stops_the_tricks() -> None:
    layer, kept = Convolution(4, 4, 3, padding=1).requires_grad_(False), []
    with plainly(), torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t.shape), lambda t: t):
        layer(torch.randn(2, 4, 8, 8, requires_grad=True))
    assert (2, 4, 8, 8) in kept
    with pytest.raises(ZeroDivisionError), plainly():
        _ = 1 / 0
    assert not Switch.plain


def test_every_part_of_an_iteration_is_named(teacher) -> None:
    parts = steps(teacher, False).step()
    assert {"data", "generator forward", "features", "heads", "backward", "optimiser", "EMA", "R1", "other"} == set(
        parts
    )
    assert all(seconds >= 0 for seconds in parts.values())
    assert all(seconds > 0 for name, seconds in parts.items() if name != "other")


def test_a_race_gives_both_and_medians_add_up(teacher) -> None:
    rounds = race({"ours": steps(teacher, False), "plain": steps(teacher, True)}, 3)
    assert {name: len(parts) for name, parts in rounds.items()} == {"ours": 3, "plain": 3}
    found = medians([{"a": 1.0, "b": 5.0}, {"a": 3.0, "b": 1.0}, {"a": 2.0, "b": 1.0}])
    assert found == {"a": 2.0, "b": 1.0, "iteration": 4.0}


def test_a_part_within_a_part_counts_for_the_outer_one() -> None:
    watch = Stopwatch()
    with watch.part("outer"), watch.part("inner"):
        pass
    assert set(watch.take()) == {"outer"}
    assert watch.take() == {}


def test_operations_are_the_same_however_often_r1_comes(teacher) -> None:
    """R1's operations are spread: twice as rare, half as many."""

    def of(every: int) -> float:
        recipe = replace(RECIPE, objectives=(replace(RECIPE.objectives[0], r1_every=every),))  # type: ignore[type-var]
        return operations(steps(teacher, False, recipe))

    rare, rarer = of(2), of(4)
    without = 2 * rarer - rare
    assert 0 < without < rarer < rare


def test_training_is_measured_with_known_and_with_new_images_and_plainly(teacher, tmp_path) -> None:
    problem = Problem(teacher, recipes.PRETRAIN, RECIPE)
    found = {kind: {} for kind in ("images_per_second", "peak_share", "parts", "spread", "gigaflop_an_image", "ratio")}
    training("d2o_f", RECIPE, problem, noise_images(8, (1, 8, 8), 2, tmp_path), 1, True, 1e9, found)
    assert set(found["ratio"]) == {"d2o_f_step", "d2o_f_first_pass_step"}
    needed = found["gigaflop_an_image"]
    assert needed["d2o_f"] < needed["d2o_f_first_pass"] < needed["d2o_f_plain"]
    for name, share in found["peak_share"].items():
        assert share == pytest.approx(needed[name] * found["images_per_second"][name])
