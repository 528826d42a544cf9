"""Class numbers: those that are stored, or a model's, or else counted from 0 over the classes that have images."""

import operator
import re
from collections.abc import Mapping, Sequence

import numpy as np

from d2o.records import nearest, shorten

from .source import MOST_CLASSES, LabelError, Source

EXAMPLES = 20  # classes that an error writes out for --classes


def parse_classes(text: str) -> dict[str, int]:
    """Read class numbers such as "cat=3,dog=5"."""
    parts = text.split(",")
    pairs = [pair for part in parts if (pair := re.fullmatch(r"\s*(.*\S)\s*=\s*([0-9]{1,6})\s*", part))]
    numbers = {name: int(number) for name, number in (pair.groups() for pair in pairs)}
    if len(numbers) < len(parts):
        raise ValueError(f"--classes {text} does not give each class one number; write for example cat=3,dog=5.")
    return numbers


def number_classes(
    source: Source, num_classes: int | None, given: Mapping[str, int] | None, known: Sequence[str]
) -> tuple[np.ndarray | None, tuple[str, ...]]:
    """Return the labels int64 [N] of all images, and the names of classes 0 to K-1; without labels None and none.

    With `num_classes`, a model's, numbers that are stored are the model's. `given` says which number each name has, and
    so do the names `known` to the model, unless the data have no names but plain numbers. Raises ValueError where it is
    not sure which class is which.
    """
    if source.labels is None:
        if num_classes or given:
            asked = f"{num_classes} classes are asked for" if num_classes else "--classes is given"
            raise ValueError(
                f"{source.path} has no labels, but {asked}: sort its images into a folder for each class (numbered "
                "ones need --labels folders), add a dataset.json or an array `labels`, leave --labels none out."
            )
        return None, ()
    stored, places = np.unique(read_labels(source), return_inverse=True)
    names = [source.classes.get(number, str(number)) for number in stored.tolist()]
    pairs = [f"{name}={i}" for i, name in enumerate(names[:EXAMPLES])]
    example = f"--classes {','.join(pairs)}{', and so on' if len(names) > EXAMPLES else ''}"
    if wrong := sorted((given or {}).keys() - names):
        raise ValueError(f"--classes names {wrong[0]}, but {source.path} has no such class: {nearest(wrong[0], names)}")
    by_name = given or {name: i for i, name in enumerate(known)}
    plain = source.numbered and all(map(str.isdecimal, names)) and by_name.keys().isdisjoint(names)
    if given or (known and not plain):
        if missing := [name for name in names if name not in by_name]:
            near = "" if given else f" ({nearest(missing[0], known).rstrip('.')})"
            raise ValueError(
                f"{'--classes' if given else 'the model'} does not have the class {missing[0]} of {source.path}{near}; "
                f"say which it is: {example}."
            )
        numbers = [by_name[name] for name in names]
    elif num_classes is None or (not source.numbered and len(names) == num_classes):
        numbers = list(range(len(names)))
    elif source.numbered:
        numbers = stored.tolist()
    else:
        raise ValueError(
            f"{source.path} has {len(names)} classes ({shorten(names)}), not the model's {num_classes}: say which "
            f"number each has, by {example}."
        )
    count = num_classes or max(numbers) + 1
    if max(numbers) >= count:
        index = int(np.flatnonzero(places == numbers.index(max(numbers)))[0])
        wrong = f"has the label {max(numbers)}, not one from 0 to {count - 1}"
        raise ValueError(f"{source.image(index)} {wrong}; correct it, or say which class is which by {example}.")
    named = dict(enumerate(known)) | dict(zip(numbers, names, strict=True))
    return np.array(numbers, np.int64)[places], tuple(named.get(number, str(number)) for number in range(count))


def read_labels(source: Source) -> np.ndarray:
    """Return the numbers that are stored, int64 [N]; raises LabelError unless each image has one."""
    assert source.labels is not None
    if len(source.labels) != len(source.names):
        raise LabelError(f"{source.path} has {len(source.names)} images but {len(source.labels)} labels; repair it")
    stored = source.labels
    if isinstance(stored, np.ndarray) and stored.dtype.kind == "i" and ((stored >= 0) & (stored < MOST_CLASSES)).all():
        return stored.astype(np.int64)  # those of millions, not one by one
    for index, label in enumerate(source.labels):
        if isinstance(label, bool | np.bool_) or not hasattr(label, "__index__"):
            raise LabelError(f"{source.image(index)} has the label {label!r:.99}, not an integer; correct it")
        if not 0 <= operator.index(label) < MOST_CLASSES:
            raise LabelError(
                f"{source.image(index)} has the label {label}, not one from 0 to {MOST_CLASSES - 1}; correct it"
            )
    return np.array(source.labels, np.int64)


def describe_classes(classes: Sequence[str], counts: Sequence[int]) -> str:
    """Return classes with their numbers and how many images each has."""
    rows = [
        f"{name if name == str(i) else f'{i} = {name}'} ({count:,})"
        for i, (name, count) in enumerate(zip(classes, counts, strict=True))
        if count
    ]
    empty = [name for name, count in zip(classes, counts, strict=True) if not count]
    found = f"{len(rows):,} classes: {shorten(rows)}" if len(rows) != 1 else f"1 class: {rows[0]}"
    return found + (f"; the model's classes {shorten(empty)} have no images" if empty else "")
