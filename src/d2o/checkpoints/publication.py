"""What a folder of the Hugging Face hub says of itself: which repository it is, and the licence on its card."""

import os
import re
from contextlib import suppress
from pathlib import Path

from d2o.errors import printable
from d2o.files import read_bytes

CARD = "README.md"
LARGEST_CARD = 1 << 20
LONGEST_FIELD, LONGEST_TERM = 800, 200
"""Bytes of a card, and characters of one of its fields, and of those that are taken over from it."""
TERMS = ("license", "license_name", "license_link")
"""What the hub knows of a licence: its identifier, and of `other` ones the name and where its text stands."""
EXPORT = "d2o_export"
"""The field of the cards that come with exports: the name of the file or folder."""
FIELDS = (*TERMS, EXPORT)
HUB = "https://huggingface.co"
ADDRESS = re.compile(r"hf://([\w.-]+/[\w.-]+?)(?:@[^/]*)?(?:/.*)?")
CACHED = re.compile(r".*[/\\]models--([\w.-]+?)--([\w.-]+)[/\\]snapshots[/\\].*")


def find_card(path: Path, in_folder: bool) -> Path:
    """Return the file of an export's card: in its folder, or beside its file, as one name may be that of several."""
    return path / CARD if in_folder else path.with_name(f"{path.name}.md")


def describe_publication(folder: Path) -> dict[str, str]:
    """Return the repository and licence of a model's folder, as far as they are known."""
    card = read_fields(folder / CARD)
    repository = find_repository(folder.absolute())
    found = {name: value for name in TERMS if (value := read_term(name, card.get(name), repository)) is not None}
    return ({} if repository is None else {"repository": repository}) | found


def find_repository(place: str | os.PathLike) -> str | None:
    """Return OWNER/NAME of an hf:// address, or of a path in the cache of the hub's own client."""
    text = os.fspath(place)
    if match := ADDRESS.fullmatch(text):
        return match[1]
    match = CACHED.fullmatch(f"{text}/")
    return match and f"{match[1]}/{match[2]}"


def read_term(name: str, value: str | None, repository: str | None) -> str | None:
    if value is None or len(value) > LONGEST_TERM or printable(value) != value:
        return None
    if name != "license_link" or value.startswith("https://"):
        return value
    return None if repository is None else f"{HUB}/{repository}/blob/main/{value}"


def read_fields(card: Path) -> dict[str, str]:
    """Return those of FIELDS that the YAML at the beginning of a card has, of one line each and not empty."""
    try:
        text = read_bytes(card, LARGEST_CARD).decode()
    except (OSError, ValueError):
        return {}
    import yaml

    start = re.match(r"\s*---\r?\n(.*?)^---\s*$", text, re.DOTALL | re.MULTILINE)
    found: dict[str, str] = {}
    for name in FIELDS:
        line = re.search(rf"^{name}:[ \t](.{{1,{LONGEST_FIELD}}})$", start[1] if start else "", re.MULTILINE)
        with suppress(yaml.YAMLError, ValueError, RecursionError):
            value = yaml.load(line[1] if line else "", yaml.BaseLoader)  # text, lists and mappings alone
            found |= {name: value} if isinstance(value, str) and value else {}
    return found
