"""Long passes over images tell how far they are; who shows it, and how, is the caller's."""

from collections.abc import Iterable, Iterator
from typing import Protocol, TypeVar

Item = TypeVar("Item")


class Counted(Protocol):
    """Passes items on and shows how many of `total` there were: of batches their images, of others themselves."""

    def __call__(self, items: Iterable[Item], total: int, title: str, unit: str = "images") -> Iterator[Item]:
        """Yield the items."""
        ...


def unshown(items: Iterable[Item], total: int, title: str, unit: str = "images") -> Iterator[Item]:
    """Pass items on and show nothing."""
    del total, title, unit
    yield from items
