"""Random numbers of a batch belong to (seed, place in the stream, purpose), and to nothing else."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from d2o.objectives.adversarial import detach
from d2o.objectives.batch import Batch

PLACES = st.integers(0, 2**62)


def batch_at(index, seed=0):
    return Batch(torch.zeros(len(index), 1, 4, 4), None, index, seed)


@settings(max_examples=40, deadline=None)
@given(st.lists(PLACES, min_size=1, max_size=5), st.integers(0, 2**32 - 1), st.data())
def test_a_row_depends_on_its_own_place_only(index, seed, data):
    i = data.draw(st.integers(0, len(index) - 1))
    batch, alone = batch_at(index, seed), batch_at(index[i : i + 1], seed)
    assert torch.equal(batch.noise("a")[i], alone.noise("a")[0])
    assert torch.equal(batch.uniform("a", 3)[i], alone.uniform("a", 3)[0])


@settings(max_examples=40, deadline=None)
@given(PLACES, PLACES, st.integers(0, 2**32 - 1), st.integers(0, 2**32 - 1))
def test_another_place_seed_or_purpose_gives_other_noise(place, other, seed, other_seed):
    noise = batch_at([place], seed).noise("generator")
    assert torch.equal(noise, batch_at([place], seed).noise("generator"))
    assert not torch.equal(noise, batch_at([place], seed).noise("discriminator"))
    if place != other:
        assert not torch.equal(noise, batch_at([other], seed).noise("generator"))
    if seed != other_seed:
        assert not torch.equal(noise, batch_at([place], other_seed).noise("generator"))


def test_noise_has_the_shape_of_the_images_and_uniforms_that_asked_for():
    batch = Batch(torch.zeros(3, 2, 5, 7), None, [0, 1, 2])
    assert batch.noise("a").shape == (3, 2, 5, 7) and batch.uniform("b", 9).shape == (3, 9)


def test_split_keeps_every_image_once_with_its_label_and_place_and_shares_nothing():
    x0 = torch.arange(7.0).view(7, 1, 1, 1)
    batch = Batch(x0, torch.arange(7), range(10, 17), seed=5, shared={"work": 1})
    parts = batch.split(3)
    assert [len(part) for part in parts] == [3, 3, 1]
    assert torch.equal(torch.cat([part.x0 for part in parts if part.x0 is not None]), x0)
    assert [int(label) for part in parts if part.condition is not None for label in part.condition] == list(range(7))
    assert [place for part in parts for place in part.index] == list(range(10, 17))
    assert all(part.seed == 5 and part.shared == {} for part in parts)
    parts[0].shared["mine"] = 1
    assert parts[1].shared == {}


def test_detach_cuts_every_branch_of_a_tree():
    leaf = torch.ones(2, requires_grad=True) * 2
    cut = detach([[leaf, leaf + 1], [leaf]])
    assert [[t.requires_grad for t in branch] for branch in cut] == [[False, False], [False]]
    assert torch.equal(cut[0][1], leaf + 1)
