"""Parquet files of Hugging Face."""

import io
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from d2o.files import open_regular, parse_json

from .captions import check_complete, choose_key
from .source import LARGEST, MOST_IMAGES, Captions, Source, check_room, choose_labels, list_names, name_damage

if TYPE_CHECKING:
    from pyarrow import RecordBatch
    from pyarrow.parquet import ParquetFile

IMAGE_COLUMNS = ("image", "img", "images", "jpg", "png")
MOST_DESCRIPTION, MOST_GROUPS = 1 << 26, 1 << 15  # bytes at the end of a file, and items of each list there
BATCH = 1 << 27  # bytes that are unpacked at once


def read_parquet(path: Path, files: Sequence[Path], labels: str, captions: str = "auto") -> Source:
    """Read rows of encoded images, or of their paths, from the files that `path` stands for."""
    import pyarrow as arrow

    with name_damage(path, "download it again; all files must have the same columns"):
        descriptions = [open_table(file).metadata for file in files]
        schema, counts = (
            descriptions[0].schema.to_arrow_schema(),
            [description.num_rows for description in descriptions],
        )
    kinds = dict(zip(schema.names, schema.types, strict=True))
    pictures = [name for name, kind in kinds.items() if contains_images(kind)]
    if not pictures:
        raise ValueError(f"{files[0]} has no column of images, only {list_names(kinds)}; give another file.")
    if not 0 < sum(counts) <= MOST_IMAGES:
        raise ValueError(f"{path} has {sum(counts) or 'no'} rows, not 1 to {MOST_IMAGES}; choose another file.")
    picture = next((name for name in IMAGE_COLUMNS if name in pictures), pictures[0])
    column = choose_labels(path, labels, list(kinds))
    if column and not arrow.types.is_integer(kinds[column]):
        raise ValueError(f"{path}: {column!r} has the type {kinds[column]}, not an integer; add --labels none.")
    text = choose_key((name for name, kind in kinds.items() if contains_texts(kind)), captions)
    with name_damage(path, "download it again; all files must have the same columns"):
        table = arrow.Table.from_batches(read_batches(files, [name for name in (picture, column, text) if name]))
        images, found = table[picture], table[column].to_pylist() if column else None
    rows = [(file, row) for file, part in zip(files, counts, strict=True) for row in range(part)]

    def open_row(index: int) -> IO[bytes]:
        stored, folder = images[index].as_py(), rows[index][0].parent.resolve()
        content, name = (stored["bytes"], stored.get("path")) if isinstance(stored, dict) else (stored, None)
        if content is not None:
            return io.BytesIO(content)
        if not isinstance(name, str):
            raise OSError("it has neither bytes nor a path")
        if not (folder / name).resolve().is_relative_to(folder):
            raise OSError(f"its path {name!r} points outside the folder of the parquet file")
        return open_regular(folder / name, LARGEST)

    names = [f"row {row} of {file.name}" for file, row in rows]
    texts = None
    if text:
        check_complete(path, names, table[text].is_valid().to_numpy())
        texts = Captions(text, lambda index: table[text][index].as_py())
    return Source(str(path), names, open_row, found, read_class_names(schema.metadata, column), captions=texts)


def read_class_names(metadata: Mapping[bytes, bytes] | None, column: str | None) -> dict[int, str]:
    """Return the names of classes that Hugging Face's description has, if any, of a column."""
    try:
        names = parse_json((metadata or {})[b"huggingface"])["info"]["features"][column]["names"]
        counts = Counter(names)
        return {i: name if counts[name] == 1 else f"{name} {i}" for i, name in enumerate(names)}
    except (KeyError, TypeError, ValueError):
        return {}


def open_table(path: Path) -> "ParquetFile":
    """Open a file, whose description is of bounded length."""
    from pyarrow.parquet import ParquetFile

    with open_regular(path) as file:
        file.seek(-8, os.SEEK_END)
        if int.from_bytes(file.read(4), "little") > MOST_DESCRIPTION:
            raise OSError(f"its description takes more than {MOST_DESCRIPTION:,} bytes")
    return ParquetFile(path, thrift_container_size_limit=MOST_GROUPS)


def read_batches(files: Sequence[Path], columns: Sequence[str]) -> "list[RecordBatch]":
    """Read the columns by a few rows at a time: a value that is stored once may stand in each of a million rows."""
    batches, stored, taken = [], sum(file.stat().st_size for file in files), 0
    for table in map(open_table, files):
        groups = (table.metadata.row_group(i) for i in range(table.num_row_groups))
        longest = max((group.total_byte_size for group in groups), default=0)  # a row has no more, unless by reference
        check_room(files, stored, longest)
        for batch in table.iter_batches(max(1, min(64, BATCH // max(1, longest))), columns=columns):
            taken += batch.nbytes
            check_room(files, stored, taken)
            batches.append(batch)
    return batches


def contains_images(kind: Any) -> bool:
    """Return whether a column's type is that of encoded images, or of Hugging Face's records of bytes and path."""
    from pyarrow import types

    if types.is_struct(kind) and kind.get_field_index("bytes") >= 0:
        kind = kind.field("bytes").type
        return types.is_null(kind) or contains_images(kind)
    return types.is_binary(kind) or types.is_large_binary(kind)


def contains_texts(kind: Any) -> bool:
    """Return whether a column's type is that of texts, or of lists of texts."""
    from pyarrow import types

    kind = kind.value_type if types.is_list(kind) or types.is_large_list(kind) else kind
    return types.is_string(kind) or types.is_large_string(kind)
