"""Captioned pictures of emoji in several styles, from packages of npm that users fetch; `emoji` is such a file.

What is written is a zip of splits with metadata.jsonl, which any command opens.
"""

import io
import json
import unicodedata
import zipfile
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Sequence
from importlib import import_module
from importlib.util import find_spec
from itertools import chain, filterfalse
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from PIL import Image

from d2o.diffusion.condition import split_words
from d2o.files import atomic, check_file, parse_json, read_bytes
from d2o.pages import encode_image
from d2o.records import find

from .captions import LONGEST_LIST, read_jsonl
from .layout import ATTRIBUTION
from .shuffling import permute
from .source import LARGEST, name_damage
from .sources import SHIPPED, Archive

SIDE = 64  # pixels of a picture before it is reduced
LONGEST_CAPTION, FEW = 24, 3  # words of a caption, and of the keywords in those with a few
HELD_PAIRS, HELD_CONCEPTS = 0.1, 0.03
SIGNS = str.maketrans({"#": " hash ", "*": " asterisk ", "&": " and "})
GROUPS = {"smileys": 0, "people": 1, "animals": 3, "food": 4, "travel": 5, "activities": 6, "objects": 7}
GROUPS |= {"symbols": 8, "flags": 9}
"""Group -> its number in emojibase; 2 are the skin tones themselves."""


class Package(NamedTuple):
    """A package of npm, what of it is used, and whom the data set has to name."""

    name: str
    version: str
    used: str
    credit: str


NAMES = Package(
    "emojibase-data", "17.0.0", "en/data.json",
    "names and keywords: emojibase-data, copyright Miles Johnson, MIT License; from Unicode CLDR, Unicode License v3",
)  # fmt: skip
STYLES = {
    "noto": Package(
        "emoji-datasource-google", "16.0.0", "img/google/64",
        "noto: Noto Emoji, copyright Google, Apache-2.0 (flags: public domain), github.com/googlefonts/noto-emoji",
    ),
    "twemoji": Package(
        "emoji-datasource-twitter", "16.0.0", "img/twitter/64",
        "twemoji: Twemoji, copyright Twitter and other contributors, CC-BY 4.0 (creativecommons.org/licenses/by/4.0), "
        "github.com/jdecked/twemoji",
    ),
    "fluent": Package(
        "@lobehub/fluent-emoji-flat", "1.1.0", "assets",
        "fluent: Fluent Emoji, copyright Microsoft Corporation, MIT License, github.com/microsoft/fluentui-emoji",
    ),
}  # fmt: skip
WRONG = ("noto", "1f1e8-1f1f6")  # Sark's flag, in whose file is that of Saudi Arabia
CHANGED = "changed: drawn on white and reduced to {size}x{size} pixels, captions made of names and keywords"


class Picture(NamedTuple):
    """A row of metadata.jsonl; pictures that differ in skin tone alone are of one `concept`, named by its code."""

    file_name: str
    text: list[str]
    name: str
    style: str
    group: str
    concept: str


def build(
    packages: str | Path,
    out: str | Path,
    *,
    size: Literal[32, 64] = 32,
    styles: Sequence[str] = tuple(STYLES),
    groups: Sequence[str] = tuple(GROUPS),
    tones: bool = True,
    seed: int = 0,
    counted: Callable[..., Any] = lambda items, *_: items,
) -> Counter[str]:
    """Write pictures of emoji with captions to a zip, and return how many there are of each split.

    `packages` is npm's node_modules. Without `tones` each concept has one skin tone. Each group has its own splits.
    Raises ValueError, naming the file and the remedy, for packages that are missing or of other versions.
    """
    if (out := check_file(out)).suffix != ".zip":
        raise ValueError(f"The name of {out} must end in .zip: emoji are written to a zip.")
    for what, names, table in (("style", styles, STYLES), ("group", groups, GROUPS)):
        for name in names:
            find(name, table, f"{what} of emoji")
    folder = check_packages(Path(packages), [NAMES, *(STYLES[style] for style in styles)])
    if "fluent" in styles and find_spec("resvg_py") is None:
        remedy = "pip install -e '.[emoji]' in d2o's folder, or leave the style fluent out"
        raise ValueError(f"The pictures of {STYLES['fluent'].name} are SVG files, which need resvg-py: {remedy}.")
    with name_damage(folder, "install its packages again"):
        found = list(find_pictures(folder, dict.fromkeys(styles), set(groups), tones))
        terms = [(folder / NAMES.name / "LICENSE").read_text()]
    terms += [(SHIPPED / "LICENSE").read_text()] if "noto" in styles else []
    divided = (divide({(p.concept, p.style) for p, _ in found if p.group == group}, seed) for group in groups)
    parts = {pair: split for part in divided for pair, split in part.items()}
    credits = [*(STYLES[style].credit for style in STYLES if style in styles), NAMES.credit, CHANGED.format(size=size)]
    listed = []
    with atomic(out) as temporary, zipfile.ZipFile(temporary, "w") as archive:
        write(archive, ATTRIBUTION, "\n\n\n".join(["\n".join(credits), *terms]))
        for picture, file in counted(found, len(found), str(out)):
            split = parts[picture.concept, picture.style]
            listed.append(picture._replace(file_name=f"{split}/{picture.file_name}"))
            write(archive, listed[-1].file_name, encode_image(draw(file, size)))
        write(archive, "metadata.jsonl", "".join(f"{json.dumps(picture._asdict())}\n" for picture in listed))
    return Counter(picture.file_name.partition("/")[0] for picture in listed)


def check_packages(folder: Path, packages: Sequence[Package]) -> Path:
    """Return the folder of packages; raises ValueError, with npm's command, where it lacks one in its version."""
    for package in packages:
        try:
            version = parse_json(read_bytes(folder / package.name / "package.json", LARGEST))["version"]
        except (OSError, ValueError, KeyError, TypeError):
            version = None
        if version != package.version:
            has = f"has {package.name} {str(version)[:30]}, not" if version else f"does not have {package.name}"
            command = " ".join(["npm install", *(f"{one.name}@{one.version}" for one in packages)])
            raise ValueError(f"{folder} {has} {package.version}: run `{command}`, and give its node_modules.")
    return folder


def find_pictures(
    folder: Path, styles: Collection[str], groups: Collection[str], tones: bool
) -> Iterator[tuple[Picture, Path]]:
    """Yield the pictures of some styles and groups with their files, in the order of Unicode and of `styles`."""
    places = {style: folder / STYLES[style].name / STYLES[style].used for style in styles}
    files = {style: {shorten(file.stem): file for file in place.iterdir()} for style, place in places.items()}
    numbers = {GROUPS[group]: group for group in groups}
    rows = parse_json(read_bytes(folder / NAMES.name / NAMES.used, LONGEST_LIST))
    for row in (row for row in rows if row.get("group") in numbers):
        words = [word for tag in row.get("tags", ()) if any(map(str.isalpha, tag)) for word in clean(tag)]
        for one in (row, *(row.get("skins", ()) if tones else ())):
            code, name, group = shorten(one["hexcode"]), clean(one["label"]), numbers[row["group"]]
            keywords = [word for word in dict.fromkeys(words) if word not in name]
            for style in (style for style in styles if code in files[style]):
                strange = style == "fluent" and one["label"].startswith("flag: ")  # Microsoft has published no flags
                if not strange and (style, code) != WRONG:
                    text, concept = write_captions(style, " ".join(name), keywords), shorten(row["hexcode"])
                    picture = Picture(f"{group}-{style}-{code}.png", text, " ".join(name), style, group, concept)
                    yield picture, files[style][code]


def shorten(code: str) -> str:
    """Return a sequence of code points as files name it, without what only asks for a coloured picture."""
    return code.lower().replace("-fe0f", "")


def clean(text: str) -> list[str]:
    """Return the words of a text in ASCII, in lower case and without accents."""
    letters = unicodedata.normalize("NFKD", text.translate(SIGNS))
    return [word for word in split_words("".join(filterfalse(unicodedata.combining, letters))) if word.isascii()]


def write_captions(style: str, name: str, keywords: Sequence[str]) -> list[str]:
    """Return captions of a picture: with style, without, with all keywords that fit, and with a few of them each."""
    styled, few = f"{style} {name}", [" ".join(keywords[i : i + FEW]) for i in range(0, len(keywords), FEW)]
    texts = [styled, name, " ".join([styled, *few]), *(f"{(name, styled)[i % 2]} {some}" for i, some in enumerate(few))]
    return list(dict.fromkeys(" ".join(text.split()[:LONGEST_CAPTION]) for text in texts))


def draw(file: Path, size: int) -> np.ndarray:
    """Return a picture on white, in the middle of uint8 [size, size, 3]; sides are halved by averaging."""
    with name_damage(file, "install its package again"):
        content = read_bytes(file, LARGEST)
        if file.suffix == ".svg":
            content = import_module("resvg_py").svg_to_bytes(svg_string=content.decode(), width=SIDE, height=SIDE)
        image = Image.open(io.BytesIO(content)).convert("RGBA")
        ground = Image.new("RGBA", (SIDE, SIDE), "white")
        ground.alpha_composite(image, ((SIDE - image.width) // 2, (SIDE - image.height) // 2))
    return np.asarray(ground.convert("RGB").resize((size, size), Image.Resampling.BOX))


def divide(pairs: Collection[tuple[str, str]], seed: int = 0) -> dict[tuple[str, str], str]:
    """Return the split of each pair of a concept and a style: a function of the pairs and the seed.

    "test" are all pairs of 3 % of the concepts; "val" a tenth of the pairs, of whose concept and of whose style there
    are others in "train", which are the rest. There are fewer where concepts have few styles.
    """
    pairs = sorted(pairs)
    concepts = sorted({concept for concept, _ in pairs})
    test = {concepts[i] for i in permute(len(concepts), seed)[: round(HELD_CONCEPTS * len(concepts))]}
    parts = {pair: "test" if pair[0] in test else "train" for pair in pairs}
    left = Counter(chain.from_iterable(pair for pair in pairs if parts[pair] == "train"))
    wanted = round(HELD_PAIRS * len(pairs))
    for pair in (pairs[i] for i in permute(len(pairs), seed)):
        if wanted and parts[pair] == "train" and all(left[part] > 1 for part in pair):
            parts[pair], wanted = "val", wanted - 1
            left.subtract(pair)
    return parts


def write(archive: zipfile.ZipFile, name: str, content: str | bytes) -> None:
    """Write a file into a zip, always to the same bytes."""
    entry = zipfile.ZipInfo(name)
    entry.external_attr = 0o644 << 16
    archive.writestr(entry, content, zipfile.ZIP_STORED if name.endswith(".png") else zipfile.ZIP_DEFLATED)


def read_pictures(path: str | Path = SHIPPED / "emoji.zip") -> dict[str, Picture]:
    """Return what a zip of emoji says of its pictures, by the names that their `Source` has."""
    with name_damage(path, "write it again"), Archive(Path(path)).open("metadata.jsonl") as file:
        return {row["file_name"]: Picture(**row) for row in read_jsonl(file.read())}
