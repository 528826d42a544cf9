"""Balanced gradients: their size, that no judge's scale counts, and what many processes and micro-batches see."""

from typing import Any

import pytest
import torch
from torch import nn

from d2o.diffusion.noise import noise_for
from d2o.discriminators import Discriminator
from d2o.objectives import Adversarial
from d2o.objectives.balance import Balance
from d2o.objectives.batch import Batch
from d2o.objectives.objective import Networks, Step


class Two(Discriminator):
    """Two linear judges of very different scales, the first `scale` times what it was."""

    def __init__(self, scale=1.0):
        super().__init__()
        self.w = nn.Parameter(noise_for([7, 8], (64,)) * torch.tensor([[scale], [1e-3]]), requires_grad=False)

    def judge(self, features, condition=None):
        flat = features[0][0].flatten(1)
        return [(flat.sin() @ row)[:, None] for row in self.w]


def gradient_of(student, scale, iterations=1, decay=0.9, split=4):
    """Return the gradient of all of a student's weights in the last of some iterations, and the balance."""
    objective = Adversarial(loss="hinge", balance=decay)
    balance: Any = objective.build("balance", student, student)
    networks = Networks(student, student, discriminator=Two(scale), extra={"balance": balance})
    for place in range(iterations):
        batch = Batch(noise_for(range(50, 54), (1, 8, 8)), None, range(4 * place, 4 * place + 4))
        student.zero_grad()
        for part in batch.split(split):
            (objective(networks, part).sum() / 4).backward()
        objective.after(networks, Step(4, 4, 8))
    return torch.cat([p.grad.flatten() for p in student.parameters() if p.grad is not None]), balance


@pytest.mark.parametrize("iterations", [1, 3])
def test_the_scale_of_a_judge_does_not_count(tiny_denoiser, iterations):
    student = tiny_denoiser()
    one, ten = (gradient_of(student, scale, iterations) for scale in (1.0, 10.0))
    torch.testing.assert_close(one[0], ten[0], rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(ten[1].squares / one[1].squares, torch.tensor([100.0, 1.0]), rtol=1e-4, atol=0)


def test_every_judge_pulls_as_if_its_loss_were_a_mean_over_the_numbers_of_an_image():
    balance, images = Balance(), noise_for(range(4), (1, 8, 8)).requires_grad_()
    losses = [scale * images.flatten(1).pow(power).sum(1) for scale, power in ((1e3, 2), (1e-3, 3))]
    value = balance(losses, images, 0.9)
    torch.testing.assert_close(value, losses[0] + losses[1])
    value.sum().backward()
    parts = [torch.autograd.grad(loss.sum(), images)[0] for loss in losses]
    wanted = sum(part / part.square().mean().sqrt() / 64 for part in parts)
    torch.testing.assert_close(images.grad, wanted)


def test_running_squares_are_those_of_whole_batches(tiny_denoiser):
    _, whole = gradient_of(tiny_denoiser(), 1.0, iterations=3)
    _, parts = gradient_of(tiny_denoiser(), 1.0, iterations=3, split=2)
    torch.testing.assert_close(whole.squares, parts.squares)


def test_they_decay_resume_and_take_in_no_nonsense():
    balance = Balance()
    for square, wanted in ((4.0, 4.0), (1.0, 2.5), (float("nan"), 2.5)):
        balance.seen = [torch.tensor([square])]
        balance.settle(0.5)
        assert balance.squares.tolist() == [wanted]
    other = Balance()
    other.load_state_dict(balance.state_dict())
    assert torch.equal(other.squares, balance.squares)


def test_two_processes_take_the_mean_of_what_they_saw(monkeypatch):
    monkeypatch.setattr("torch.distributed.is_initialized", lambda: True)
    monkeypatch.setattr("torch.distributed.get_world_size", lambda: 2)
    monkeypatch.setattr("torch.distributed.all_reduce", lambda mine: mine.add_(torch.tensor([3.0, 1.0])))
    balance = Balance()
    balance.seen = [torch.tensor([1.0, 2.0]), torch.tensor([3.0, 4.0])]
    balance.settle(0.9)
    assert balance.squares.tolist() == [2.5, 2.0]


@pytest.mark.parametrize("decay", [1.0, -0.1])
def test_decays_are_shares(decay):
    with pytest.raises(ValueError):
        Adversarial(balance=decay)
