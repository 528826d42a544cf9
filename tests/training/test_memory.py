"""A batch that does not fit is refused before the run starts, with one that would."""

from dataclasses import replace

import pytest
import torch

from d2o.objectives import Adversarial
from d2o.training import memory
from d2o.training.memory import bytes_an_image, check_memory, largest, moving_bytes, remembered_bytes
from d2o.training.networks import networks

from .tiny import ADVERSARIAL, RECIPES


@pytest.fixture
def made(tiny_denoiser):
    return networks(ADVERSARIAL, tiny_denoiser(classes=2))


def test_asking_leaves_the_networks_as_they_were(tiny_denoiser, made):
    untouched = networks(ADVERSARIAL, tiny_denoiser(classes=2))
    flags = [p.requires_grad for p in made.student.parameters()]
    assert bytes_an_image(ADVERSARIAL, made) > 10_000
    pairs: tuple = ((made.student, untouched.student), (made.discriminator, untouched.discriminator))
    for asked, other in pairs:
        state = other.state_dict()
        assert all(torch.equal(tensor, state[name]) for name, tensor in asked.state_dict().items())
    assert [p.requires_grad for p in made.student.parameters()] == flags
    assert all(p.requires_grad for p in made.discriminator.heads.parameters())


def test_frozen_weights_need_less(tiny_denoiser):
    need = {
        name: bytes_an_image(RECIPES[name], networks(RECIPES[name], tiny_denoiser(classes=2)))
        for name in ("d2o", "d2o-f")
    }
    assert need["d2o-f"] <= need["d2o"]


@pytest.mark.parametrize(
    ("room", "processes", "words"),
    [
        (8.5, 1, "--micro-batch 8 "),
        (8.5, 2, "--micro-batch 4 "),
        (2.1, 1, "--micro-batch 2 "),
        (1.5, 1, "not even two"),
    ],
)
def test_a_batch_that_does_not_fit(monkeypatch, made, room, processes, words):
    each = bytes_an_image(ADVERSARIAL, made)
    always = moving_bytes(made) + remembered_bytes(ADVERSARIAL, made, 100)[0]
    monkeypatch.setattr(memory, "available", lambda _: int(room * each) + processes * always)
    with pytest.raises(ValueError, match=words):
        check_memory(replace(ADVERSARIAL, batch_size=48), made, processes, 100)
    check_memory(replace(ADVERSARIAL, batch_size=48, micro_batch_size=1), made, processes, 100)
    with pytest.raises(ValueError, match="not even two"):  # what is remembered of more images takes the room
        check_memory(replace(ADVERSARIAL, batch_size=48), made, processes, 10**6)


def test_what_moves_and_what_is_remembered_is_counted(tiny_denoiser):
    made, frozen = (networks(RECIPES[name], tiny_denoiser(classes=2)) for name in ("d2o", "d2o-f"))
    moving = [p for network in (made.student, made.discriminator) for p in network.parameters() if p.requires_grad]  # type: ignore[union-attr]
    assert moving_bytes(made) == 3 * 4 * sum(p.numel() for p in moving) > moving_bytes(frozen)
    row = remembered_bytes(ADVERSARIAL, made, 1)[0]
    assert remembered_bytes(ADVERSARIAL, made, 40) == (40 * row, 0)
    augmenting = replace(ADVERSARIAL, objectives=(Adversarial(augmentation=("cutout",)),))
    assert remembered_bytes(augmenting, made, 40) == (0, 0)


def test_where_no_one_tells_the_free_memory_nothing_is_refused(monkeypatch, made):
    monkeypatch.setattr(memory, "available", lambda _: None)
    check_memory(replace(ADVERSARIAL, batch_size=2**30), made)


def test_limits_of_a_container_count(monkeypatch, tmp_path):
    files = {name: tmp_path / name for name in ("max", "current")}
    files["max"].write_text("3000000\n")
    files["current"].write_text("1000000\n")
    monkeypatch.setattr(memory, "CGROUPS", ((str(files["max"]), str(files["current"])),))
    assert memory.available(torch.device("cpu")) == 2_000_000
    files["max"].write_text("max\n")
    assert (memory.available(torch.device("cpu")) or 10**9) > 2_000_000


def test_micro_batches_are_even_and_never_single():
    assert [largest(48, limit) for limit in (100, 47, 7, 1, 0)] == [48, 24, 7, 1, 0]
    assert [largest(127, 100), largest(62, 30), largest(33, 32), largest(9, 8), largest(1, 5)] == [64, 21, 17, 5, 1]
    for share in range(2, 80):
        for limit in range(3, 90):
            size = largest(share, limit)
            assert 2 <= size <= min(limit, share)
            assert share % size != 1 or all(share % other == 1 for other in range(2, size + 1))
