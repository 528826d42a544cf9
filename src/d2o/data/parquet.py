"""Parquet files of Hugging Face."""

import io
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any

from d2o.files import parse_json

from .source import Source, choose_labels, name_damage

IMAGE_COLUMNS = ("image", "img", "images", "jpg", "png")


def read_parquet(path: Path, files: Sequence[Path], labels: str) -> Source:
    """Read rows of encoded images, or of their paths, from the files that `path` stands for."""
    import pyarrow as arrow
    import pyarrow.parquet as parquet

    remedy = "download it again; all files must have the same columns"
    with name_damage(path, remedy, arrow.ArrowException):
        schema = parquet.read_schema(files[0])
    pictures = [field.name for field in schema if contains_images(field.type)]
    if not pictures:
        raise ValueError(f"{files[0]} has no column of images, only {', '.join(schema.names)}; give another file.")
    picture = next((name for name in IMAGE_COLUMNS if name in pictures), pictures[0])
    column = choose_labels(path, labels, schema.names)
    with name_damage(path, remedy, arrow.ArrowException):
        tables = [parquet.read_table(file, columns=[picture, *([column] if column else [])]) for file in files]
        table = arrow.concat_tables(tables)
    if not len(table):
        raise ValueError(f"{path} has no rows; choose another file.")
    rows = [(file, row) for file, part in zip(files, tables, strict=True) for row in range(len(part))]
    images = table[picture]

    def open_row(index: int) -> IO[bytes]:
        stored, folder = images[index].as_py(), rows[index][0].parent.resolve()
        content, name = (stored["bytes"], stored.get("path")) if isinstance(stored, dict) else (stored, None)
        if content is not None:
            return io.BytesIO(content)
        if name is None:
            raise OSError("it has neither bytes nor a path")
        if not (folder / name).resolve().is_relative_to(folder):
            raise OSError(f"its path {name!r} leads out of the folder of the parquet file")
        return (folder / name).open("rb")

    found = table[column].to_pylist() if column else None
    names = [f"row {row} of {file.name}" for file, row in rows]
    return Source(str(path), names, open_row, found, read_class_names(schema.metadata, column))


def read_class_names(metadata: Mapping[bytes, bytes] | None, column: str | None) -> dict[int, str]:
    """Return the names of classes that Hugging Face's description has, if any, of a column."""
    try:
        names = parse_json((metadata or {})[b"huggingface"])["info"]["features"][column]["names"]
        counts = Counter(names)
        return {i: name if counts[name] == 1 else f"{name} {i}" for i, name in enumerate(names)}
    except (KeyError, TypeError, ValueError):
        return {}


def contains_images(kind: Any) -> bool:
    """Return whether a column's type is that of encoded images, or of Hugging Face's records of bytes and path."""
    from pyarrow import types

    is_record = types.is_struct(kind) and kind.get_field_index("bytes") >= 0
    return is_record or types.is_binary(kind) or types.is_large_binary(kind)
