"""A cache gives what the network would give, and asks it once an image."""

from pathlib import Path
from unittest.mock import Mock

import pytest
import torch
from torch import Tensor, nn

from d2o.features.cache import CHUNK, Cached
from d2o.features.pyramid import Pyramid


def images(numbers: list[int]) -> Tensor:
    return torch.stack([torch.full((1, 4, 4), float(number)) for number in numbers])


class Look(nn.Module):
    """Two maps of an image, and a count of the images looked at."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[float] = []
        self.sizes: set[int] = set()

    def forward(self, batch: Tensor) -> list[Tensor]:
        self.sizes.add(len(batch))
        self.seen += sorted(set(batch[:, 0, 0, 0].tolist()))
        return [batch.expand(-1, 3, -1, -1) + 0.5, batch[:, :, ::2, ::2] * 2]


def check(maps: list[Tensor], numbers: list[int]) -> None:
    assert torch.equal(maps[0], images(numbers).expand(-1, 3, -1, -1) + 0.5)
    assert torch.equal(maps[1], images(numbers)[:, :, ::2, ::2] * 2)
    assert maps[0].is_contiguous(memory_format=torch.channels_last)


def test_an_image_is_looked_at_once() -> None:
    cache = Cached(look := Look())
    for numbers in ([3, 1, 2], [2, 4, 3], [4, 4, 1]):
        check(cache(images(numbers), numbers), numbers)
    assert sorted(look.seen) == [1, 2, 3, 4]


def test_always_as_many_are_computed_at_once_and_no_more_than_asked_for() -> None:
    for count, chunk in ((4, 4), (CHUNK, CHUNK), (CHUNK + 8, CHUNK)):
        cache = Cached(look := Look())
        cache(images(list(range(count))), list(range(count)))
        cache(images([0, 100]), [0, 100])  # one of them is new
        assert look.sizes == {chunk}


ROW = 4 * (3 * 16 + 4)  # bytes


@pytest.mark.parametrize(("memory", "disk", "remembered"), [(2, 0, 2), (2, 3, 5), (0, 0, 0), (0, 2, 2)])
def test_what_does_not_fit_is_looked_at_again(tmp_path: Path, memory: int, disk: int, remembered: int) -> None:
    store = Cached(look := Look(), memory * ROW)
    store.use_disk(tmp_path, disk * ROW)
    numbers = list(range(7))
    for _ in range(3):
        check(store(images(numbers), numbers), numbers)
    assert len(look.seen) == 7 + 2 * (7 - remembered)
    assert list(tmp_path.iterdir()) == []
    assert len(store.rows) == remembered
    assert [len(place) for place in store.stores] == [memory, disk]


def test_an_emptied_memory_knows_nothing() -> None:
    cache = Cached(look := Look())
    cache(images([1]), [1])
    cache.clear()
    cache(images([1]), [1])
    assert look.seen == [1, 1]


def test_what_is_remembered_does_not_depend_on_the_company() -> None:
    """A resumed run meets images in other batches than the run it continues, and must see the same."""
    pyramid = Pyramid("tf_efficientnet_lite0", 32, "random")
    pictures = torch.rand(50, 3, 8, 8, generator=torch.Generator().manual_seed(0)) * 2 - 1
    with torch.no_grad():
        whole, memory = Cached(pyramid), Cached(pyramid)
        whole(pictures[:10], range(10))  # as many as the other's first
        expected = whole(pictures, range(50))
        for start, stop in ((40, 50), (0, 3), (0, 50)):
            found = memory(pictures[start:stop], range(start, stop))
    assert all(torch.equal(one, other) for one, other in zip(found, expected, strict=True))


@pytest.mark.parametrize("limit", [0, 3 * ROW])
def test_another_device_keeps_them_itself_if_it_may(limit: int) -> None:
    """Tensors without numbers stand in for a GPU's."""
    store = Cached(look := Mock(side_effect=lambda x: [x.expand(-1, 3, -1, -1), x[:, :, ::2, ::2]]), ROW)
    store.gpu_memory = limit
    for _ in range(3):
        maps = store(torch.empty(2, 1, 4, 4, device="meta"), [0, 1])
        assert {one.device.type for one in maps} == {"meta"}
    assert look.call_count == (1 if limit else 3)
    assert [len(place) for place in store.stores] == ([3, 0] if limit else [])


@pytest.mark.parametrize("written", [OSError(), 5])
def test_a_full_disk_keeps_nothing_more(tmp_path: Path, written: OSError | int) -> None:
    """Neither an error, nor the half of a row, nor the signal that a map of a full disk gives."""
    store = Cached(look := Look(), ROW)
    store.use_disk(tmp_path, 5 * ROW)
    check(store(images([0, 1]), [0, 1]), [0, 1])
    store.file = Mock(seek=lambda _: None, write=Mock(side_effect=[written]))
    for _ in range(2):
        check(store(images([0, 1, 2, 3]), [0, 1, 2, 3]), [0, 1, 2, 3])
    assert sorted(look.seen[:2]) == [0, 1] and set(look.seen[2:]) == {2, 3} and list(store.rows) == [0, 1]
