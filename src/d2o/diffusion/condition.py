"""What images should show: anything with a row an image. Class numbers [N] are one condition, captions another."""

import dataclasses
import logging
import re
from collections.abc import Callable, Collection, Iterable, Sequence
from functools import cached_property
from typing import Annotated, Any, Literal, NamedTuple, Protocol, Self

import torch
import torch.nn.functional as F
from pydantic import Field, StrictStr
from pydantic.dataclasses import dataclass
from torch import Tensor

from d2o.records import RECORD, nearest

log = logging.getLogger("d2o")
EXAMPLES = 256
"""The most captions that a reader keeps as examples."""
MOST_TOLD = 1000
"""The most unknown words that are told, which data and servers may have without end."""
PADDING, FIRST = 0, 2
"""The numbers of no word, and of the first; 1 is the networks' own, for no caption at all."""


class Condition(Protocol):
    """Rows that say what N images should show; a tensor is one. None in its place is what a network calls nothing."""

    def __len__(self) -> int: ...

    def __getitem__(self, rows: Any, /) -> Self: ...

    def to(self, device: torch.device, /) -> Self: ...


@dataclasses.dataclass(frozen=True)
class Text:
    """What text encoders say of N captions: tokens [N, L, E], which of them count [N, L], and a vector [N, P] of all.

    Without a mask all tokens count. It has rows like a tensor.
    """

    tokens: Tensor
    mask: Tensor | None = None
    pooled: Tensor | None = None

    def map(self, change: Callable[[Tensor], Tensor]) -> "Text":
        """Return the text with each of its tensors changed."""
        parts = (self.tokens, self.mask, self.pooled)
        return Text(*(None if part is None else change(part) for part in parts))  # type: ignore[arg-type]

    def summarise(self) -> Tensor:
        """Return a vector [N, P] or [N, E] of each caption: the encoders' own, or else the mean of its tokens."""
        if self.pooled is not None or self.mask is None:
            return self.tokens.mean(1) if self.pooled is None else self.pooled
        there = self.mask.unsqueeze(2).to(self.tokens.dtype)
        return (self.tokens * there).sum(1) / there.sum(1).clamp(min=1)

    def __len__(self) -> int:
        return len(self.tokens)

    def __getitem__(self, rows: Any, /) -> "Text":
        return self.map(lambda part: part[rows])

    def to(self, device: torch.device, /) -> "Text":
        return self.map(lambda part: part.to(device))


@dataclasses.dataclass(frozen=True)
class Blend:
    """A share [N] of the way from N captions to N others, both numbers of words [N, L]; it has rows like a tensor.

    A network that `blends` mixes what it makes of both before it looks at the image.
    """

    first: Tensor
    second: Tensor
    share: Tensor

    def mix(self, read: Callable[[Tensor], Tensor]) -> Tensor:
        """Return what `read` says of the first captions moved towards what it says of the others."""
        first = read(self.first)
        return torch.lerp(first, read(self.second), self.share.to(first).view(-1, *[1] * (first.dim() - 1)))

    def map(self, change: Callable[[Tensor], Tensor]) -> "Blend":
        return Blend(change(self.first), change(self.second), change(self.share))

    def __len__(self) -> int:
        return len(self.first)

    def __getitem__(self, rows: Any, /) -> "Blend":
        return self.map(lambda part: part[rows])

    def to(self, device: torch.device, /) -> "Blend":
        return self.map(lambda part: part.to(device))


def pad(rows: Sequence[Tensor]) -> Text:
    """Return tokens [L_i, E] of captions as a text of the longest, whose mask says which of them count."""
    length = max(map(len, rows))
    mask = torch.stack([torch.arange(length, device=row.device) < len(row) for row in rows]).long()
    return Text(torch.stack([F.pad(row, (0, 0, 0, length - len(row))) for row in rows]), mask)


class TextWidth(NamedTuple):
    """The width of a caption's vector, told to networks that know no number of classes or words."""

    width: int


Vocabulary = int | TextWidth
"""How many classes or words there are, or how wide a caption's vector is; 0 for no condition at all."""


class Reader(Protocol):
    """Captions -> what a network is told of them; no part of its weights. `examples` are asked for where nobody asks.

    A caption that it cannot read is a ValueError.
    """

    @property
    def examples(self) -> Sequence[str]: ...

    def __call__(self, captions: Sequence[str], /) -> Condition: ...

    def nothing(self, count: int, /) -> Condition | None:
        """Return what stands for no caption, `count` times; None where the network has its own."""
        ...

    def to_spec(self) -> dict[str, Any]:
        """Return the JSON form, with its `kind`."""
        ...


Caption = Annotated[StrictStr, Field(max_length=1 << 16)]


@dataclass(frozen=True, config=RECORD)
class Words:
    """A reader that numbers the words of captions: whole numbers [N, length], 0 after a caption's last word.

    Words that are not among `words` are left out, and each is told once; a caption of no others, or of more than
    `length`, is a ValueError; one of no words says nothing. `examples` are captions to ask for where nobody asks.
    """

    words: Annotated[tuple[Caption, ...], Field(max_length=1 << 20)]
    length: Annotated[int, Field(strict=True, ge=1, le=4096)]
    examples: Annotated[tuple[Caption, ...], Field(min_length=1, max_length=EXAMPLES)]
    kind: Literal["words"] = "words"

    @classmethod
    def of(cls, captions: Iterable[str]) -> "Words":
        """Return the reader of all words of these captions, in the order of the alphabet."""
        known, words, length = dict.fromkeys(captions), set(), 1
        for caption in known:
            words.update(split := split_words(caption))
            length = max(length, len(split))
        step = max(1, -(-len(known) // EXAMPLES))
        return cls(tuple(sorted(words)), length, tuple(list(known)[::step]))

    @property
    def size(self) -> int:
        """How many numbers there are."""
        return FIRST + len(self.words)

    @cached_property
    def numbers(self) -> dict[str, int]:
        return {word: number for number, word in enumerate(self.words, FIRST)}

    @cached_property
    def told(self) -> set[str]:
        """The unknown words that somebody was told of."""
        return set()

    def __call__(self, captions: Sequence[str]) -> Tensor:
        return torch.tensor([self.number(caption) for caption in captions])

    def nothing(self, _count: int, /) -> None:
        """Return None: a network that reads numbers of words has one for no caption."""

    def to_spec(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    def unknown(self, caption: str) -> list[str]:
        """Return the words of a caption that are left out, each once."""
        return list(dict.fromkeys(word for word in split_words(caption) if word not in self.numbers))

    def check(self, captions: Collection[str], name: str) -> None:
        """Say once which words of a data set's captions are left out; ValueError for a caption that cannot be read."""
        missing = list(dict.fromkeys(word for caption in captions for word in self.unknown(caption)))
        self.told.update(missing)
        for caption in captions:
            try:
                self.number(caption)
            except ValueError as error:
                raise ValueError(f"{error} {name} has it: choose other data, or pre-train on it.") from None
        if missing:
            log.warning(f"The model does not know {len(missing)} words of {name}, such as {', '.join(missing[:5])}.")

    def number(self, caption: str) -> list[int]:
        asked = split_words(caption)
        words = [word for word in asked if word in self.numbers]
        for word in asked if len(words) < len(asked) else ():
            if word not in self.numbers and (not words or word not in self.told):
                sentence = f"The model does not know the word {word[:60]!r}; {nearest(word, self.words)}"
                if not words:
                    raise ValueError(sentence)
                if len(self.told) < MOST_TOLD:
                    self.told.add(word)
                    log.warning("%s It uses the others.", sentence)
        if (cut := len(words) - self.length) > 0:
            told = f"{cut} of the {len(words)} in {caption[:60]!r}"
            raise ValueError(f"The model reads {self.length} words, and would ignore {told}: shorten it.")
        return [self.numbers[word] for word in words] + [PADDING] * -cut


def split_words(caption: str) -> list[str]:
    """Return the words of a caption in lower case, without punctuation."""
    return re.findall(r"[^\W_]+", caption.lower())


Asked = int | str | Sequence[int | str] | Condition | None
"""A class or a caption for all images, one for each, or a condition itself."""


def choose_condition(
    seeds: Sequence[int],
    num_classes: int = 0,
    asked: Asked = None,
    *,
    reader: Reader | None = None,
    class_names: Sequence[str] = (),
) -> Any:
    """Return the condition of every seed, None for a model without; what it does not understand is a ValueError.

    Classes are numbers or names; a text of digits that is no name is a number. Without a wish the class of a seed is
    `seed modulo num_classes`, and its caption likewise one of the reader's examples.
    """
    if reader is None and num_classes == 0 and not isinstance(asked, Text):
        if asked is not None:
            raise ValueError("This model has no classes: leave the class out.")
        return None
    if asked is None:
        choices = range(num_classes) if reader is None else reader.examples
        asked = [choices[seed % len(choices)] for seed in seeds]  # type: ignore[assignment]
    rows: Any = [asked] * len(seeds) if isinstance(asked, int | str) else asked
    if len(rows) != len(seeds):
        what = "classes" if reader is None else "captions"
        raise ValueError(f"There are {len(seeds)} seeds but {len(rows)} {what}.")
    if not isinstance(rows, list | tuple):
        return rows
    if reader is not None:
        if wrong := next((row for row in rows if not isinstance(row, str)), None):
            raise ValueError(f"This model is conditioned on captions, not on the class {wrong!r}.")
        return reader(rows)
    numbers = [find_class(row, class_names) if isinstance(row, str) else row for row in rows]
    if wrong := sorted({k for k in numbers if not 0 <= k < num_classes}):
        raise ValueError(f"The classes of this model are 0 to {num_classes - 1}, not {', '.join(map(str, wrong[:5]))}.")
    return torch.tensor(numbers)


def find_class(name: str, names: Sequence[str]) -> int:
    if name not in names:
        if re.fullmatch("[0-9]{1,19}", name):
            return int(name)
        known = nearest(name, names) if names else "its file has no class names, so give a number."
        raise ValueError(f"The model has no class {name[:60]!r}; {known}")
    return list(names).index(name)
