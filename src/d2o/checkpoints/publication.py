"""What a folder of the Hugging Face hub says of itself: which repository it is, and the licence on its card."""

import os
import re
from pathlib import Path
from typing import Any

from d2o.errors import printable
from d2o.files import read_bytes

CARD = "README.md"
LARGEST_CARD = 1 << 20
LARGEST_FIELDS = 1 << 16
"""Bytes of a card, and of the YAML that it begins with."""
TERMS = ("license", "license_name", "license_link")
"""What the hub knows of a licence: its identifier, and of `other` ones the name and where its text stands."""
HUB = "https://huggingface.co"
ADDRESS = re.compile(r"hf://([\w.-]+/[\w.-]+?)(?:@[^/]*)?(?:/.*)?")
CACHED = re.compile(r".*[/\\]models--([\w.-]+?)--([\w.-]+)[/\\]snapshots[/\\].*")


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


def read_term(name: str, value: Any, repository: str | None) -> str | None:
    if not isinstance(value, str) or not 0 < len(value) <= 200 or printable(value) != value:
        return None
    if name != "license_link" or value.startswith("https://"):
        return value
    return None if repository is None else f"{HUB}/{repository}/blob/main/{value}"


def read_fields(card: Path) -> dict[str, Any]:
    """Return the YAML fields at the beginning of a card, all of them as text; empty where there are none to read."""
    try:
        text = read_bytes(card, LARGEST_CARD).decode()
    except (OSError, ValueError):
        return {}
    match = re.match(r"\s*---\r?\n(.*?)\r?\n---\s*(?:\n|$)", text, re.DOTALL)
    if match is None or len(match[1]) > LARGEST_FIELDS:
        return {}
    import yaml

    try:
        found = yaml.load(match[1], yaml.BaseLoader)  # text, lists and mappings alone: nothing is merged or made
    except (yaml.YAMLError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}
