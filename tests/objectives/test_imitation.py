"""What every objective that imitates a teacher promises: a loss per image, gradients to the student alone, seeds."""

from typing import Any

import pytest
import torch

from d2o import backbones
from d2o.diffusion.noise import noise_for
from d2o.objectives import Consistency, Progressive, ReverseConsistency, Trajectory
from d2o.objectives.distance import Lpips, PseudoHuber, Squared
from d2o.objectives.objective import Batch, Networks
from d2o.objectives.teaching import solver_step, straight
from d2o.objectives.trajectory import SECOND_TIME

from .gaussian import Exact, carried, denoised

OBJECTIVES = {
    "consistency": Consistency(),
    "consistency, Euler, squared": Consistency(solver="euler", distance=Squared()),
    "progressive": Progressive(steps=8),
    "progressive, Heun, unweighted": Progressive(steps=8, solver="heun", weighting="none"),
    "trajectory": Trajectory(),
    "reverse": ReverseConsistency(),
}


@pytest.fixture
def scene(tiny_denoiser):
    student, teacher, target = (tiny_denoiser(seed, classes=2) for seed in range(3))
    for network in (student, target):
        network.backbone = backbones.add_augmentation_labels(network.backbone, SECOND_TIME)
        torch.nn.init.normal_(network.backbone.get_parameter("map_augment.weight"))
    for network in (teacher, target):
        network.requires_grad_(False)
    x0 = noise_for(range(50, 54), (1, 8, 8)).clamp(-1, 1)
    return Networks(student, student, teacher, target=target), Batch(x0, torch.arange(4) % 2, range(4), 1, done=0.4)


@pytest.mark.parametrize("objective", OBJECTIVES.values(), ids=OBJECTIVES)
class TestEvery:
    def test_the_loss_of_an_image_does_not_depend_on_its_batch(self, scene, objective: Any):
        networks, batch = scene
        together = objective(networks, batch)
        assert together.shape == (4,) and together.isfinite().all() and (together >= 0).all()
        parts = torch.cat([objective(networks, part) for part in batch.split(1)])
        torch.testing.assert_close(parts, together, rtol=2e-4, atol=1e-5)

    def test_gradients_reach_the_student_alone(self, scene, objective: Any):
        networks, batch = scene
        objective(networks, batch).sum().backward()
        assert any(p.grad is not None and p.grad.abs().sum() > 0 for p in networks.student.parameters())
        assert all(p.grad is None for network in (networks.teacher, networks.target) for p in network.parameters())

    def test_the_loss_is_a_function_of_the_seed(self, scene, objective: Any):
        networks, batch = scene
        again = Batch(batch.x0, batch.condition, batch.index, 1, done=0.4)
        other = Batch(batch.x0, batch.condition, batch.index, 2, done=0.4)
        losses = [objective(networks, one) for one in (batch, again, other)]
        assert torch.equal(losses[0], losses[1]) and not torch.allclose(losses[0], losses[2])

    def test_the_label_counts(self, scene, objective: Any):
        networks, batch = scene
        other = Batch(batch.x0, 1 - batch.condition, batch.index, 1, done=0.4)
        assert not torch.allclose(objective(networks, batch), objective(networks, other))


def test_without_an_average_the_student_is_its_own_target(scene):
    networks, batch = scene
    assert "target" in Consistency().needs and "target" not in Consistency(target_half_life=0).needs
    alone = Networks(networks.student, networks.ema, networks.teacher)
    loss = Consistency(target_half_life=0)(alone, batch)
    networks.target = networks.student
    assert torch.equal(loss, Consistency()(networks, batch))


@pytest.mark.parametrize(
    ("objective", "numbers", "names"),
    [
        (Progressive, {"steps": 12}, ("12", "8", "16")),
        (Progressive, {"steps": 1}, ("steps",)),
        (Consistency, {"steps": 1}, ("steps",)),
        (Consistency, {"distance": "lips"}, ("distance", "lips", "lpips")),
        (Trajectory, {"solver": "dpm"}, ("solver", "heun")),
        (ReverseConsistency, {"target_half_life": -1}, ("target_half_life",)),
    ],
)
def test_impossible_numbers_are_refused(objective, numbers, names):
    with pytest.raises(ValueError) as caught:
        objective(**numbers)
    assert all(name in str(caught.value) for name in names)


class TestSteps:
    def test_a_straight_line_to_where_a_step_ends_gives_its_x0(self):
        x, x0 = noise_for([1, 2], (1, 4, 4)).double(), noise_for([3, 4], (1, 4, 4)).double()
        here, there = torch.tensor([4.0, 4.0]).double(), torch.tensor([1.0, 0.0]).double()
        constant: Any = Exact(lambda x, sigma: x0)
        x_next = solver_step(constant, x, here, there, None, "euler")
        torch.testing.assert_close(straight(x, here, x_next, there), x0)
        torch.testing.assert_close(
            solver_step(constant, x, here, there, None, "heun"), x_next
        )  # lines need no second order

    @pytest.mark.parametrize(("solver", "order"), [("euler", 2), ("heun", 3)])
    def test_the_error_of_one_step_has_the_solvers_order(self, solver, order):
        x, exact = noise_for([1], (1, 4, 4)).double(), Exact(denoised)
        errors = []
        for size in (0.1, 0.05):
            here, there = torch.tensor([1.0]).double(), torch.tensor([1.0 - size]).double()
            found = solver_step(exact, x, here, there, None, solver)  # type: ignore[arg-type]
            errors.append(float((found - carried(x, here.view(-1, 1, 1, 1), 1.0 - size)).abs().max()))
        assert errors[0] / errors[1] == pytest.approx(2**order, rel=0.15)


class TestDistances:
    A, B = noise_for([1, 2], (3, 4, 4)), noise_for([3, 4], (3, 4, 4))

    def test_pseudo_huber_is_euclidean_far_away_and_squared_near(self, scene):
        networks, _ = scene
        found = PseudoHuber(c=1e-6)(networks, self.A, self.B)
        torch.testing.assert_close(found, (self.A - self.B).flatten(1).norm(dim=1), rtol=1e-4, atol=1e-4)
        near = PseudoHuber(c=10.0)(networks, self.A.double(), self.A.double() + 0.01)
        torch.testing.assert_close(near, torch.full((2,), 48 * 0.01**2 / 20).double(), rtol=1e-4, atol=0)

    def test_its_default_grows_with_the_image(self, scene):
        networks, _ = scene
        wanted = PseudoHuber(c=0.00054 * 48**0.5)(networks, self.A, self.B)
        assert torch.equal(PseudoHuber()(networks, self.A, self.B), wanted)

    def test_squared_is_the_mean_over_pixels(self, scene):
        networks, _ = scene
        assert Squared()(networks, self.A, self.A + 0.5).tolist() == pytest.approx([0.25, 0.25])

    def test_lpips_asks_its_network(self, scene):
        networks, _ = scene
        record = Lpips(weights="random", size=16)
        networks.perceptual = record.build()
        assert (record(networks, self.A, self.B) > 0).all() and record.needs == ("perceptual",)
        assert float(record(networks, self.A, self.A).max()) == 0

    def test_a_name_will_do(self):
        assert Consistency(distance="lpips").distance == Lpips()  # type: ignore[arg-type]
        assert Consistency(distance={"kind": "pseudo-huber", "c": 2}).distance == PseudoHuber(c=2)  # type: ignore[arg-type]
