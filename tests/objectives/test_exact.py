"""On Gaussian data the functions that distillation looks for are known: their losses vanish as they should."""

import math
from dataclasses import replace

import pytest
import torch

from d2o.diffusion.families import EDM, Boundary, Epsilon, Flow
from d2o.diffusion.noise import karras_sigmas
from d2o.objectives import Consistency, Progressive, ReverseConsistency, Trajectory
from d2o.objectives.distance import PseudoHuber, Squared
from d2o.objectives.teaching import levels, straight
from d2o.objectives.trajectory import SECOND_TIME, SIGMA_MAX, SIGMA_MIN, answer, jump, second_time
from refusal import refused

from .gaussian import Exact, carried, consistent, denoised, scene


def losses(objective, student, steps):
    networks, batch = scene(student)
    return [float(objective(distance=Squared(), steps=count)(networks, batch).mean()) for count in steps]


def test_the_exact_consistency_function_costs_nothing_on_fine_grids():
    coarse, middle, fine = losses(Consistency, consistent, (18, 72, 288))
    # A step's error is of third order, and squared: four times as many steps cost 4^6 times less.
    assert coarse < 2e-5 and middle < 5e-9 and fine < 1e-12
    assert 0.5 * 4**6 < middle / fine < 2 * 4**6


@pytest.mark.parametrize("family", [EDM(), Boundary(), Flow(), Epsilon("scaled_linear", 0.00085, 0.012)])
@pytest.mark.parametrize("steps", [2, 4, 18])
def test_every_level_is_learned_down_to_where_the_student_is_exact(family, steps):
    asked = set()

    def student(x, sigma):
        asked.update(sigma.flatten().tolist() if torch.is_grad_enabled() else ())  # not as the target
        return 0 * x + sigma

    networks, batch = scene(student)
    for one in (networks.student, networks.teacher):
        one.preconditioning = family  # type: ignore[union-attr]
    Consistency(steps=steps, distance=Squared())(networks, batch)
    wanted = [sigma for sigma in family.sigmas(steps) if sigma > getattr(family, "sigma_min", 0)]
    assert sorted(asked, reverse=True) == pytest.approx(wanted)


def test_the_step_to_zero_ends_at_the_teachers_image():
    """From the last level the student should say what its teacher says there; its own image at 0 is not asked."""
    networks, batch = scene(lambda x, sigma: denoised(x, sigma) + 100 * (sigma < 0.5))
    assert float(Consistency(steps=2, solver="euler", distance=Squared())(networks, batch).min()) < 1e-20


def test_euler_steps_cost_more():
    networks, batch = scene(consistent)
    euler, heun = (
        Consistency(steps=72, solver=s, distance=Squared())(networks, batch).mean() for s in ("euler", "heun")
    )
    assert euler > 100 * heun


def test_the_teacher_itself_is_no_consistency_function():
    assert losses(Consistency, denoised, (288,))[0] > 1e-6 > 1e3 * losses(Consistency, consistent, (288,))[0]


def end(told):
    """Read the noise level out of what a student is told."""
    phase = torch.atan2(told[:, 0], 1 - told[:, SECOND_TIME // 2])
    return SIGMA_MIN * torch.expm1(phase / math.pi * math.log1p(SIGMA_MAX / SIGMA_MIN))


def exact_jump(x, sigma, told):
    there = end(told)
    return straight(x, sigma.flatten(), carried(x, sigma, there.view(-1, 1, 1, 1)), there)


@pytest.mark.parametrize("objective", [Trajectory, ReverseConsistency])
def test_the_exact_jumps_cost_nothing_on_fine_grids(objective):
    middle, fine = losses(objective, exact_jump, (72, 288))
    assert middle < 1e-6 and fine < 1e-9 and middle / fine > 4**4


@pytest.mark.parametrize("objective", [Trajectory, ReverseConsistency])
def test_jumps_that_miss_cost_more(objective):
    wrong = losses(objective, lambda x, sigma, told: 1.1 * exact_jump(x, sigma, told), (288,))[0]
    assert wrong > 100 * losses(objective, exact_jump, (288,))[0]


@pytest.mark.parametrize("to_zero", [0.0, 0.5, 1.0])
def test_the_share_of_jumps_that_end_at_zero_is_asked_for(to_zero):
    ends, steps, count = [], 18, 4000

    def student(x, sigma, told):
        ends.append((told == 0).all(1))
        return exact_jump(x, sigma, told)

    networks, batch = scene(student, count)
    Trajectory(steps=steps, target_half_life=0, to_zero=to_zero)(networks, batch)
    others = sum(1 / left for left in range(1, steps + 1)) / steps  # of a random start, a random later level
    assert float(ends[-1].double().mean()) == pytest.approx(to_zero + (1 - to_zero) * others, abs=0.03)


class TestSecondTime:
    def test_it_is_nothing_for_an_end_at_zero_and_tells_all_others_apart(self):
        sigmas = torch.tensor([0.0, *karras_sigmas(40)[:-1]]).double()
        told = second_time(sigmas)
        assert told.shape == (41, SECOND_TIME) and not told[0].any()
        assert float(torch.pdist(told).min()) > 0.1
        torch.testing.assert_close(end(told), sigmas, rtol=1e-6, atol=1e-9)

    def test_jumps_begin_where_they_are_and_end_at_zero_with_the_answer(self):
        x, sigma = torch.ones(2, 1, 4, 4).double(), torch.tensor([5.0, 5.0]).double()
        student = Exact(lambda x, sigma, told: 0 * x - 3)
        there = torch.tensor([5.0, 0.0]).double()
        found = jump(student, x, sigma, there, None)  # type: ignore[arg-type]
        assert found[0].eq(1).all() and found[1].eq(-3).all()

    def test_a_widened_student_is_its_teacher_until_it_learns(self, tiny_denoiser):
        from d2o import backbones

        for extra in (0, 9):  # with augmentation labels of its own and without
            teacher, student = (tiny_denoiser(augmentation_dim=extra) for _ in range(2))
            student.backbone = backbones.add_augmentation_labels(student.backbone, SECOND_TIME)
            x, sigma = torch.randn(2, 1, 8, 8), torch.tensor([3.0, 1.0])
            with torch.no_grad():
                assert torch.equal(answer(student, x, sigma, sigma / 2, None), teacher(x, sigma))
                assert torch.equal(student(x, sigma), teacher(x, sigma))
                torch.nn.init.normal_(student.backbone.get_parameter("map_augment.weight"))
                assert torch.equal(student(x, sigma), teacher(x, sigma))
                assert not torch.allclose(answer(student, x, sigma, sigma / 2, None), teacher(x, sigma))

    @pytest.mark.parametrize("kind", ["dit", "edm2_unet"])
    def test_a_backbone_that_cannot_be_told_is_named(self, kind):
        from d2o import backbones

        sizes = {"resolution": 8, "in_channels": 1, "out_channels": 1}
        small = {
            "dit": {"channels": 32, "num_blocks": 1, "num_heads": 2},
            "edm2_unet": {"channels": 32, "num_blocks": 1},
        }
        with torch.device("meta"):
            backbone = backbones.build({"kind": kind, **sizes, **small[kind]})
        with refused(kind, "augmentation", "song_unet"):
            backbones.add_augmentation_labels(backbone, SECOND_TIME)


class TestProgressive:
    @pytest.mark.parametrize("number", [0, 1, 2])
    def test_the_target_is_exact_for_euler_steps_on_gaussian_data(self, number):
        """Two Euler steps multiply x by known factors, and so does the single step that ends where they do."""
        objective = Progressive(steps=8, distance=Squared(), solver="euler")
        grid = EDM().sigmas(8)[:: 2**number]

        def factor(sigma, sigma_next):
            return sigma_next / sigma + (1 - sigma_next / sigma) * 0.25 / (0.25 + sigma**2)

        wanted = {}
        for here, middle, there in zip(grid[::2], grid[1::2], grid[2::2], strict=False):
            ratio = there / here
            wanted[here] = (factor(here, middle) * factor(middle, there) - ratio) / (1 - ratio)

        def student(x, sigma):
            near = torch.tensor(list(wanted), dtype=torch.float64)
            which = (sigma.flatten()[:, None] - near).abs().argmin(1)
            assert torch.allclose(near[which], sigma.flatten(), rtol=1e-6)
            return x * torch.tensor(list(wanted.values()), dtype=torch.float64)[which].view(-1, 1, 1, 1)

        networks, batch = scene(student)
        batch.done = (number + 0.5) / 3
        networks.teacher.preconditioning = None  # type: ignore[union-attr]
        assert float(objective(networks, batch).max()) < 1e-20
        assert len(wanted) == 4 >> number

    def test_the_last_two_rounds_are_twice_as_long(self):
        objective = Progressive(steps=16)
        assert [6 * start for start in objective.starts] == [1, 2, 4]
        assert [objective.round(done) for done in (0, 0.16, 1 / 6, 1 / 3, 0.6, 2 / 3, 1.0)] == [0, 0, 1, 2, 2, 3, 3]
        assert [Progressive(steps=steps).lengths for steps in (2, 4, 8)] == [[1], [1, 1], [1, 2, 2]]

    def test_a_perfect_student_stays_perfect(self):
        """The exact walk is linear in x: whoever steps along it exactly teaches the next round to do so."""
        networks, batch = scene(denoised)
        for number in range(3):
            objective, grid = Progressive(steps=8, distance=Squared()), levels(8, None, networks.student, batch.given)
            batch.done = float((0, *objective.starts)[number])

            def steps_of(stride, grid=grid):
                def exact(x, sigma):
                    place = (grid - sigma.view(-1, 1)).abs().argmin(1)
                    there = grid[(place // stride + 1) * stride]
                    return straight(x, sigma.flatten(), carried(x, sigma, there.view(-1, 1, 1, 1)), there)

                return Exact(exact)

            networks.teacher, networks.student = steps_of(2**number), steps_of(2 ** (number + 1))  # type: ignore[assignment]
            found = objective(networks, batch) if number else replace(objective, solver="euler")(networks, batch)
            assert float(found.max()) < 1e-20

    def test_the_weight_is_the_truncated_signal_to_noise_ratio(self):
        networks, batch = scene(denoised)
        plain, weighted = (
            Progressive(steps=16, distance=PseudoHuber(), weighting=w)(networks, batch)
            for w in ("none", "truncated-snr")
        )
        ratio = weighted / plain
        assert float(ratio.min()) == pytest.approx(1) and float(ratio.max()) > 10
