"""The Frechet objective: its distance in closed form, its gradient by finite differences, and its populations."""

from copy import deepcopy
from typing import Any

import numpy as np
import pytest
import torch

from d2o.diffusion.noise import noise_for
from d2o.metrics import distances
from d2o.metrics.statistics import Features, features_of
from d2o.objectives import Adversarial, Frechet
from d2o.objectives.batch import Batch
from d2o.objectives.frechet import POPULATIONS, Population, frechet
from d2o.objectives.objective import Networks
from d2o.training.loop import begin, turns
from d2o.training.recipe import Recipe

SHAPE = (1, 2, 3)
DIM = 6


def draw(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def covariance_of(rows: torch.Tensor) -> torch.Tensor:
    return torch.cov(rows.T, correction=0)


def make(kind: str, size: int, first: torch.Tensor, axes: int | None = None) -> Population:
    """Return a population whose features are the images' own numbers, all in float64, beside data of other moments."""
    population = POPULATIONS[kind]("pixels", "random", axes, size, SHAPE).double()
    population.features = lambda images: images.flatten(1)
    mixing = draw(1, DIM, DIM)
    population.refer_to(draw(2, DIM), mixing @ mixing.T)
    population.fill(population.coordinates(first))
    return population


class TestTheDistance:
    def test_of_independent_variances_is_known(self):
        mean, found, wanted = torch.tensor([1.0, -2.0]), torch.tensor([4.0, 9.0]), torch.tensor([1.0, 16.0])
        distance, slope = frechet(mean, found.diag(), wanted)
        assert distance.item() == pytest.approx(5 + (2 - 1) ** 2 + (3 - 4) ** 2)
        torch.testing.assert_close(slope, (1 - (wanted / found).sqrt()).diag())

    def test_is_the_metric(self):
        sample, reference = draw(3, 50, DIM) @ draw(4, DIM, DIM), draw(5, 60, DIM) @ draw(6, DIM, DIM) + 1
        population = make("queue", 50, torch.zeros(2, *SHAPE))
        population.refer_to(reference.mean(0), torch.cov(reference.T))
        rows = population.coordinates(sample.view(-1, *SHAPE))
        ours, _ = frechet(rows.mean(0), torch.cov(rows.T), population.variances)
        theirs = distances.frechet(*(Features("", r.mean(0).numpy(), np.cov(r.T), len(r)) for r in (sample, reference)))
        assert ours.item() == pytest.approx(theirs)

    def test_and_its_slope_are_0_where_the_moments_agree(self):
        variances = torch.tensor([3.0, 3.0, 1.0, 0.0], dtype=torch.float64)
        distance, slope = frechet(torch.zeros(4, dtype=torch.float64), variances.diag(), variances)
        assert abs(distance.item()) < 1e-12
        assert slope[:3, :3].abs().max() < 1e-12

    @pytest.mark.parametrize("repeated", [False, True])
    def test_slope_is_the_derivative(self, repeated):
        variances = torch.ones(4, dtype=torch.float64) if repeated else draw(7, 4).square()
        mixing = torch.eye(4, dtype=torch.float64) if repeated else draw(8, 4, 4)
        covariance, change, step = mixing @ mixing.T, draw(9, 4, 4), 1e-6
        change = change + change.T
        mean = draw(10, 4)
        ends = [frechet(mean, covariance + sign * step * change, variances)[0] for sign in (1, -1)]
        _, slope = frechet(mean, covariance, variances)
        expected = (ends[0] - ends[1]) / (2 * step)
        assert (slope * change).sum().item() == pytest.approx(expected.item(), rel=1e-5, abs=1e-6)


@pytest.mark.parametrize("kind", POPULATIONS)
class TestAPopulation:
    @pytest.mark.parametrize(("size", "axes"), [(9, None), (40, None), (40, 3), (4, None)])
    def test_gives_each_image_the_gradient_of_the_whole(self, kind, size, axes):
        """Times the population's size, and by finite differences in float64; also with fewer images than axes."""
        population = make(kind, size, draw(11, 30, *SHAPE), axes)
        images, step, direction = draw(12, 4, *SHAPE).requires_grad_(), 1e-5, draw(13, 4, *SHAPE)
        before = deepcopy(population.state_dict())
        loss = population(images)
        assert torch.equal(loss, loss[:1].expand(4))
        # float32 losses would hide the differences
        (gradient,) = torch.autograd.grad(loss.double().mean(), images)

        def distance(there: torch.Tensor) -> float:
            population.load_state_dict(before)
            mean, covariance = population.renew(population.coordinates(there))
            return (frechet(mean, covariance, population.variances)[0] / population.variances.sum()).item()

        slope = (distance(images + step * direction) - distance(images - step * direction)) / (2 * step)
        share = 4 / max(size, 4)  # of the population that this batch is
        assert (gradient * direction).sum().item() == pytest.approx(slope / share, rel=2e-4, abs=1e-6)

    def test_measures_the_data_along_its_own_axes(self, kind):
        rows = draw(14, 40, DIM) @ draw(15, DIM, DIM) + 3
        population = make(kind, 9, torch.zeros(3, *SHAPE))
        population.refer_to(rows.mean(0), torch.cov(rows.T))
        own = population.coordinates(rows.view(-1, *SHAPE))
        torch.testing.assert_close(torch.cov(own.T), population.variances.diag())
        assert own.mean(0).abs().max() < 1e-12
        assert population.variances.diff().max() <= 0
        assert population.variances.sum().item() == pytest.approx(torch.cov(rows.T).trace().item())

    def test_starts_with_the_moments_of_the_first_images(self, kind):
        first, batch = draw(16, 12, *SHAPE), draw(17, 4, *SHAPE)
        population = make(kind, 24, first)
        rows = population.coordinates(first)
        mean, covariance = population.renew(population.coordinates(batch))
        share = 4 / 24
        known = torch.cat([*([rows] * 2), rows[:0]])[4:] if kind == "queue" else rows
        new = population.coordinates(batch)
        expected = (1 - share) * known.mean(0) + share * new.mean(0)
        second = (1 - share) * known.T @ known / len(known) + share * new.T @ new / 4
        torch.testing.assert_close(mean, expected)
        torch.testing.assert_close(covariance, second - expected.outer(expected))

    def test_of_a_larger_batch_is_the_batch(self, kind):
        population, batch = make(kind, 3, draw(18, 5, *SHAPE)), draw(19, 7, *SHAPE)
        mean, covariance = population.renew(rows := population.coordinates(batch))
        torch.testing.assert_close(mean, rows.mean(0))
        torch.testing.assert_close(covariance, covariance_of(rows))

    def test_forgets_nothing_for_images_that_are_not_finite(self, kind):
        population, images = make(kind, 9, draw(20, 9, *SHAPE)), draw(21, 2, *SHAPE)
        before = deepcopy(population.state_dict())
        images[1] = torch.nan
        assert not population(images).isfinite().all()
        assert all(torch.equal(population.state_dict()[name], before[name]) for name in before)


def test_a_queue_holds_the_newest_in_their_order():
    population = make("queue", 5, draw(22, 5, *SHAPE))
    images = draw(23, 7, *SHAPE)
    for batch in images.split([2, 3, 2]):
        population(batch)
    torch.testing.assert_close(population.kept, population.coordinates(images[2:]))


def test_moments_forget_by_the_share_of_a_batch():
    population = make("moments", 40, draw(24, 10, *SHAPE))
    before = population.kept.clone()
    for _ in range(3):
        population(torch.zeros(4, *SHAPE, dtype=torch.float64))
    row = torch.cat([population.coordinates(torch.zeros(1, *SHAPE, dtype=torch.float64))[0], torch.ones(1)])
    torch.testing.assert_close(population.kept - row.outer(row), 0.9**3 * (before - row.outer(row)))


@pytest.fixture
def scene(tiny_denoiser: Any):
    """Return two objectives' networks, which have seen some data, a batch of it, and a count of the student's calls."""
    student = tiny_denoiser(classes=2).requires_grad_(True)

    def batches(start: int = 0):
        for first in range(start, 1000, 8):
            x0 = noise_for(range(first, first + 8), (1, 8, 8)).clamp(-1, 1)
            yield x0, torch.arange(8) % 2, torch.arange(first, first + 8)

    def open_scene(*objectives: Any):
        recipe = Recipe(objectives=objectives, batch_size=8, duration=8)
        networks = Networks(student, student, extra={})
        for objective in recipe.objectives:
            if objective.kind == "frechet":
                networks.extra["frechet"] = objective.build("frechet", student, student)
        begin(recipe, networks, batches, images=40)
        x0, label, index = next(batches(800))
        return recipe, networks, Batch(x0, label, index.tolist())

    return open_scene


class TestTheObjective:
    def test_adds_up_spaces_each_by_its_own_scale(self, scene):
        _, networks, batch = scene(one := Frechet(spaces=("pixels",), population="queue", size=40))
        alone = one(networks, batch)
        _, networks, batch = scene(two := Frechet(spaces=("pixels", "pixels"), population="queue", size=40))
        networks["frechet"][1].variances *= 4  # the same data, twice as bright
        networks["frechet"][1].axes *= 2
        networks["frechet"][1].kept *= 2
        torch.testing.assert_close(two(networks, batch), 2 * alone)

    def test_knows_the_data_that_it_has_seen(self, scene):
        _, networks, _ = scene(Frechet(spaces=("pixels",), population="queue", size=16, references=24))
        seen = noise_for(range(24), (1, 8, 8)).clamp(-1, 1).flatten(1)
        (population,) = networks["frechet"]
        expected = features_of(seen.numpy(), "pixels")
        np.testing.assert_allclose(population.mean, expected.mean, atol=1e-6)
        covariance = population.axes * population.variances @ population.axes.T
        np.testing.assert_allclose(covariance, expected.covariance, atol=1e-6)
        assert population.kept.shape == (16, 64)

    def test_makes_images_once_for_all_objectives(self, scene, monkeypatch):
        calls = []
        frechet_alone, twin = Frechet(spaces=("pixels",), size=16), Adversarial()
        monkeypatch.setattr(
            Adversarial, "__call__", lambda self, n, b: self.make(n.student, b).square().mean((1, 2, 3))
        )
        monkeypatch.setattr(Adversarial, "turns", lambda *_: ())
        recipe, networks, batch = scene(frechet_alone, twin)
        networks.student.register_forward_hook(lambda *_: calls.append(1))
        known = deepcopy(networks["frechet"].state_dict())
        together = turns(recipe, networks)[0].loss(networks, batch)
        assert len(calls) == 1
        networks["frechet"].load_state_dict(known)
        torch.testing.assert_close(together, frechet_alone(networks, batch) + twin(networks, batch))
        assert len(calls) == 3  # outside of a turn nothing is remembered
        assert batch.shared == {}

    def test_refuses_to_guess_the_data(self, scene):
        _, networks, batch = scene(objective := Frechet(spaces=("pixels",)))
        networks.extra["frechet"] = objective.build("frechet", networks.student, networks.student)
        with pytest.raises(ValueError, match="begin"):
            objective(networks, batch)

    @pytest.mark.parametrize("spaces", [("nothing",), ("inception",), ("clip@33",), ()])
    def test_refuses_spaces_that_cannot_be(self, spaces):
        with pytest.raises(ValueError):
            Frechet(spaces=spaces)

    def test_names_the_networks_that_flatter_it(self):
        recipe = Recipe(objectives=(Frechet(spaces=("lite0", "clip")), Adversarial()))
        assert recipe.judged_by == (*recipe.discriminator.networks, "vit_base_patch32_clip_quickgelu_224.openai")
        alone = Recipe(objectives=(Frechet(spaces=("pixels",)),))
        assert alone.judged_by == ("pixels",)
