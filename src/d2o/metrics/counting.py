"""Progress of long passes over images: how it is shown is up to the caller."""

from collections.abc import Iterable, Iterator
from typing import Protocol, TypeVar

Item = TypeVar("Item")


class Counted(Protocol):
    """Passes items on and shows how many of `total` there were: of batches their images, of others themselves."""

    def __call__(self, items: Iterable[Item], total: int, title: str, unit: str = "images") -> Iterator[Item]: ...


def unshown(items: Iterable[Item], total: int, title: str, unit: str = "images") -> Iterator[Item]:
    """Pass items on and show nothing."""
    del total, title, unit
    return iter(items)
