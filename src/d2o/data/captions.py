"""Captions: texts that say what images show, in files beside them, in lists or columns, read when they are needed."""

import csv
import io
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from d2o.errors import describe, printable
from d2o.files import parse_json

from .shuffling import mix
from .source import DAMAGED, Captions, Source

NAMES = ("caption", "text", "prompt")
"""Keys and columns that captions are looked for in, one after another."""
LONGEST, LONGEST_RECORD = 1 << 16, 1 << 20  # bytes of a caption, and of a .json beside an image
LONGEST_LIST, MOST_ROWS = 64 << 20, 1 << 18  # bytes of a list, and its rows, which are more for very many images
REMEDY = "correct it, or add --captions none"


def read_captions(source: Source, index: int) -> tuple[str, ...]:
    """Return the captions of an image, without the space around them; "" says nothing.

    Raises ValueError, naming the image, for what is no text, not UTF-8, or longer than 64 KiB.
    """
    assert source.captions is not None
    try:
        stored = source.captions.read(index)
        stored = stored.decode("utf-8-sig") if isinstance(stored, bytes) else stored
        texts = [stored] if isinstance(stored, str) else stored
        if not isinstance(texts, list) or not texts or not all(isinstance(text, str) for text in texts):
            raise ValueError("it is neither a text nor a list of texts")
        if any(len(text.encode()) > LONGEST for text in texts):
            raise ValueError(f"it is longer than {LONGEST:,} bytes")
    except Exception as error:  # those of libraries are of many kinds
        raise ValueError(
            f"The caption of {source.image(index)} cannot be read ({describe(error)}); {REMEDY}."
        ) from error
    return tuple(text.strip() for text in texts)


def pick_captions(captions: Iterable[tuple[str, ...]], places: np.ndarray, seed: int) -> tuple[str, ...]:
    """Return one of the captions of each image: a function of the seed and the image's place in the stream."""
    draws = mix(mix(np.array([seed], np.uint64)) ^ places.astype(np.uint64)).tolist()
    return tuple(texts[draw % len(texts)] for texts, draw in zip(captions, draws, strict=True))


def choose_key(names: Iterable[str], wanted: str) -> str | None:
    """Return the name of the key or column of captions, or None."""
    names, choices = set(names), {"auto": NAMES, "none": ()}.get(wanted, (wanted,))
    return next((name for name in choices if name in names), None)


def check_complete(path: Path, names: Sequence[str], known: np.ndarray) -> None:
    """Raise ValueError unless the caption of each image is `known`, bool [N]."""
    if not known.all():
        missing = f"{np.count_nonzero(~known):,} of {len(names):,} images, such as {names[int(known.argmin())]}"
        remedy = "add theirs, which may be empty, or --captions none"
        raise ValueError(printable(f"{path} has no captions for {missing}; {remedy}."))


def find_beside(
    path: Path, names: Sequence[str], known: Mapping[str, np.ndarray], read: Callable[[str, int], bytes], wanted: str
) -> tuple[str, Captions | None]:
    """Return the suffix and the captions of .txt files beside images ("txt" by name), or else of a key of .json files.

    `known` says which images have a file of each suffix, bool [N]; `read` reads that of image i.
    """

    def read_record(index: int) -> dict[str, Any]:
        content = read(".json", index)
        if len(content) > LONGEST_RECORD or not isinstance(record := parse_json(content), dict):
            raise ValueError(f"its .json is no record of up to {LONGEST_RECORD:,} bytes")
        return record

    there = {suffix: images for suffix, images in known.items() if images.any()}
    if ".txt" in there and wanted in ("auto", "txt"):
        check_complete(path, names, there[".txt"])
        return ".txt", Captions(".txt files", partial(read, ".txt"))
    try:
        key = choose_key(read_record(int(there[".json"].argmax())), wanted)
    except (*DAMAGED, KeyError, ValueError):  # there are none, or they say something else
        key = None
    if key is None:
        return "", None
    check_complete(path, names, there[".json"])
    return ".json", Captions(f"{key} of .json files", lambda index: read_record(index)[key])


def read_list(kind: str, content: bytes, wanted: str, most: int) -> Iterator[tuple[str, list[Any]]]:
    """Yield names of files and their captions, of a list of at most so many rows, if its first row has a caption.

    Raises ValueError, which says in which row.
    """
    row, key = 1, None
    try:
        if len(content) > LONGEST_LIST:
            raise ValueError(f"the list is longer than {LONGEST_LIST:,} bytes")
        for record in LISTS[kind](content):
            if record:
                if (key := key or choose_key(record, wanted)) is None:
                    return
                name, stored = record["file_name"], record[key]
                if not isinstance(name, str):
                    raise TypeError("its file_name is no text")
                if stored not in (None, []):
                    yield name, stored if isinstance(stored, list) else [stored]
            if (row := row + 1) > max(most, MOST_ROWS):
                raise ValueError("there are many more rows than images")
    except (csv.Error, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"row {row:,}: {describe(error)}") from error


def read_jsonl(content: bytes) -> Iterator[Any]:
    for line in io.BytesIO(content):
        yield parse_json(line) if line.strip() else None


def read_csv(content: bytes) -> Iterator[Any]:
    rows = csv.reader(io.StringIO(content.decode("utf-8-sig"), newline=""), strict=True)
    header = next(rows, [])
    yield None
    for row in rows:
        if row and len(row) != len(header):
            raise ValueError(f"it has {len(row):,} columns, not {len(header):,}")
        yield dict(zip(header, row, strict=False))


LISTS: dict[str, Callable[[bytes], Iterator[Any]]] = {"metadata.jsonl": read_jsonl, "metadata.csv": read_csv}
"""Lists of images as Hugging Face's datasets read them -> their rows, a record each, or None for a row without."""
