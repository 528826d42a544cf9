"""What is made ahead comes in its order, is bounded, and ends with its reader."""

import threading
import time
from itertools import count, islice

import pytest

from d2o.data.prefetch import MOST, ROOM, prefetch


def test_the_order_is_that_of_the_items():
    def work(item: int) -> int:
        time.sleep(0.002 * (item % 3))
        return item * item

    assert list(prefetch(work, range(20), 1)) == [item * item for item in range(20)]


@pytest.mark.parametrize(("size", "most"), [(1, MOST), (ROOM // 2, 2), (10 * ROOM, 1)])
def test_no_more_is_ahead_than_has_room(size, most):
    begun = []
    for done, _ in enumerate(islice(prefetch(begun.append, count(), size), 20), start=1):
        assert len(begun) <= done + most


def test_nothing_is_made_before_it_is_asked_for_nor_after_its_reader_is_gone():
    begun = []
    stream = prefetch(begun.append, count(), 1)
    assert begun == []
    next(stream)
    stream.close()
    for thread in threading.enumerate():
        if thread.name.startswith("prefetch"):
            thread.join(timeout=5)
    assert len(begun) <= 1 + MOST


def test_an_error_comes_in_its_turn():
    stream = prefetch(lambda item: 1 / item, (2, 1, 0, 4), 1)
    assert [next(stream), next(stream)] == [0.5, 1.0]
    with pytest.raises(ZeroDivisionError):
        next(stream)
