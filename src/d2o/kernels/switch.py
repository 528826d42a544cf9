"""The way back: everything computed as the released code does, so that every trick is a ratio."""

from collections.abc import Iterator
from contextlib import contextmanager


class Switch:
    """Whether tricks are off: separate convolution and batch norm, NCHW, inputs kept for frozen weights."""

    plain = False


@contextmanager
def plainly(plain: bool = True) -> Iterator[None]:
    """Build and run networks within this block without the tricks of this folder."""
    before, Switch.plain = Switch.plain, plain
    try:
        yield
    finally:
        Switch.plain = before
