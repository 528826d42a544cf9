"""Bad input ends in one sentence: it names what is wrong and the remedy, whatever its other words are."""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest


@contextmanager
def refused(*names: str, error: type[Exception] = ValueError) -> Iterator[None]:
    """Expect an error whose sentence has all of `names`: files, options, values, of what is wrong and of the remedy."""
    with pytest.raises(error) as caught:
        yield
    sentence = str(caught.value)
    assert "\n" not in sentence, sentence
    for name in names:
        assert name in sentence
