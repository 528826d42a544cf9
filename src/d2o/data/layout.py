"""What a tree of image files means: which are images, which classes and captions they have, and what is ignored.

A folder and a zip of the same files are the same data set, because `read_tree` reads both.
"""

import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import takewhile
from pathlib import Path, PurePath
from typing import IO, Any, Literal

import numpy as np

from d2o.errors import describe
from d2o.files import parse_json

from .captions import LISTS, LONGEST_LIST, LONGEST_RECORD, REMEDY, check_complete, find_beside, read_list
from .source import DAMAGED, MOST_CLASSES, Captions, LabelError, Source, name_damage, wants_labels

SUFFIXES = (".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".jif", ".webp", ".bmp", ".dib", ".tif", ".tiff", ".gif", ".avif")
HIDDEN = re.compile(r"(^|/)(\.|__MACOSX)")
IDLE = re.compile(r"(^|/)(\.?/)+")  # ./ and //
TRAIN = ("train", "training")
SPLITS = {*TRAIN, "val", "valid", "validation", "dev", "test", "testing"}
LISTING = "dataset.json"
ATTRIBUTION = "ATTRIBUTION"  # a file beside all folders
LISTING_BYTES = 64 << 20  # ImageNet's has 41 MB
MOST_SUFFIXES = 5  # that are named among what is ignored

Open = Callable[[str], IO[bytes]]
Places = Mapping[str, str]
"""Files by the names that their folder or zip knows them by, and these names as `normalise` gives them."""
Labels = tuple[Literal["folders", "listing"] | None, Sequence[Any]]
"""What gives the images of a split their labels, and the labels."""


@dataclass(frozen=True)
class Tree:
    """The images of a folder or zip, dataset.json files by their folders (empty, or ending in /), and the rest."""

    path: Path
    images: Places
    listings: Places
    rest: Mapping[str, str]  # names by places
    open: Open

    def read(self, place: str, most: int) -> bytes:
        """Return what one of the `rest` contains, of a longer file one byte more than the most."""
        with self.open(self.rest[place]) as file:
            return file.read(most + 1)


def read_tree(
    path: Path, files: Iterable[str], open_file: Open, labels: str, split: str | None, captions: str
) -> Source:
    """Return the images among the files of a folder or zip.

    Folders that contain everything mean nothing. The ones below are splits if two are called so, else classes;
    dataset.json above them goes before, and folders numbered as FFHQ's are no classes. With `labels` "folders" they
    always are, whatever they are called. Raises ValueError, naming the file and the remedy.
    """
    wants_labels(path, labels, "folders")
    places = find_places(files)
    images = {name: place for name, place in places.items() if place.lower().endswith(SUFFIXES)}
    rest = {place: name for name, place in places.items() if name not in images}
    listings = {place.removesuffix(LISTING): name for place, name in rest.items() if PurePath(place).name == LISTING}
    rest = {place: name for place, name in rest.items() if PurePath(place).name != LISTING}
    if not images:
        found = f"contains no images ({', '.join(SUFFIXES)}), only {count_files(rest) or 'nothing'}"
        raise ValueError(f"{path} {found}: give a folder or a zip of images.")
    tree = Tree(path, images, listings, rest, open_file)
    splits = find_splits(images) if labels != "folders" or split else {}
    chosen, ignored = choose_split(path, {name: f"{len(part):,} images" for name, part in splits.items()}, split)
    stored, kinds, used = {}, set(), set()
    for part in [splits[name] for name in chosen] or [images]:
        listing = find_listing(tree, part) if labels == "auto" else None
        kind, values = (
            label_by_folders(tree, part, labels, ignored) if listing is None else read_listing(tree, listing, part)
        )
        kinds.add(kind)
        used.add(listing)
        stored |= zip(part, values, strict=True)
    reason = "it is not the outermost one above all images" if labels == "auto" else f"--labels {labels}"
    ignored += [f"{folder}{LISTING} ({reason})" for folder in listings if folder not in used]
    if len(kinds) > 1:
        raise LabelError(f"{path} has labels of different kinds in {', '.join(chosen)}; choose one with --split")
    names = [name for name in images if name in stored]
    texts, used = find_captions(tree, names, captions)
    ignored += [others] if (others := count_files(rest.keys() - used - {ATTRIBUTION})) else []
    values, classes, numbered = [stored[name] for name in names], {}, True
    if "folders" in kinds:
        values, classes, numbered = number_folders(values)
    labelled = None if None in kinds else values
    source = Source(
        str(path), names, lambda index: open_file(names[index]), labelled, classes, numbered, ignored, texts
    )
    return replace(source, attribution=read_attribution(tree))


def read_attribution(tree: Tree) -> str:
    """Return the first paragraph of a tree's ATTRIBUTION; empty without."""
    if ATTRIBUTION not in tree.rest:
        return ""
    with name_damage(f"{ATTRIBUTION} in {tree.path}", "correct or remove it"):
        return tree.read(ATTRIBUTION, LONGEST_RECORD).decode("utf-8-sig").strip().partition("\n\n")[0]


def normalise(name: str) -> str:
    """Return the relative name of a file, alike for Linux, Windows (backslashes) and macOS (decomposed accents)."""
    name = (name if name.isascii() else unicodedata.normalize("NFC", name)).replace("\\", "/")
    return IDLE.sub(r"\1", name) if IDLE.search(name) else name


def find_places(files: Iterable[str]) -> Places:
    """Return the files that are not hidden, sorted; names that end with / are folders."""
    places = ((name, normalise(name)) for name in files)
    shown = ((name, place) for name, place in places if not place.endswith("/") and not HIDDEN.search(place))
    return dict(sorted(shown, key=lambda pair: pair[1]))


def count_files(names: Iterable[str]) -> str:
    """Return how many files there are, by suffix; empty for none."""
    counts = Counter(PurePath(name).suffix.lower() for name in names).most_common()
    rest = sum(count for _, count in counts[MOST_SUFFIXES:])
    words = [f"{count:,} {suffix or 'suffixless'}" for suffix, count in counts[:MOST_SUFFIXES]]
    return f"{', '.join(words + ([f'{rest:,} other'] if rest else []))} files" if counts else ""


def find_common(images: Places) -> str:
    """Return the folders that contain all images, one in another: empty, or ending in /."""
    pairs = zip(min(images.values()), max(images.values()), strict=False)
    same = "".join(one for one, _ in takewhile(lambda pair: pair[0] == pair[1], pairs))
    return same[: same.rfind("/") + 1]


def find_folders(images: Places, around: str) -> list[str]:
    """Return the folder below `around` that each image is in; empty where it is in none."""
    parts = (place[len(around) :].partition("/") for place in images.values())
    return [folder if slash else "" for folder, slash, _ in parts]


def find_splits(images: Places) -> dict[str, Places]:
    """Return the images of each split, by its name in lower case; none where the folders are no splits."""
    around = find_common(images)
    splits: dict[str, dict[str, str]] = {}
    for (name, place), folder in zip(images.items(), find_folders(images, around), strict=True):
        splits.setdefault(folder.lower(), {})[name] = place
    if "" not in splits and (len(SPLITS & splits.keys()) > 1 or splits.keys() <= SPLITS):
        return dict(splits)
    inner = [folder for folder in around.lower().split("/") if folder in SPLITS][-1:]
    return dict.fromkeys(inner, images)


def choose_split(path: Path, splits: Mapping[str, str], split: str | None) -> tuple[list[str], list[str]]:
    """Return the names of the splits that are used, and what is ignored; `splits` says what there is of each."""
    names = ", ".join(splits)
    if not splits:
        if split:
            raise ValueError(f"{path} has no splits such as train and test to choose from; leave --split out.")
        return [], []
    if split == "all":
        return list(splits), []
    chosen = split and split.lower()
    if not split:
        chosen = next((name for name in TRAIN if name in splits), names if len(splits) == 1 else None)
    if chosen is None:
        raise ValueError(f"{path} has the splits {names}, none for training; choose one with --split, or --split all.")
    if chosen not in splits:
        raise ValueError(f"{path} has no split {split}, only {names}; choose one of these, or --split all.")
    rest = [f"the split {name} ({size}; --split {name} or all)" for name, size in splits.items() if name != chosen]
    return [chosen], rest


def find_listing(tree: Tree, part: Places) -> str | None:
    """Return the outermost folder around all images of a split that contains a dataset.json."""
    around = find_common(part)
    return min((folder for folder in tree.listings if around.startswith(folder)), key=len, default=None)


def label_by_folders(tree: Tree, part: Places, labels: str, ignored: list[str]) -> Labels:
    around, nothing = find_common(part), (None, [None] * len(part))
    folders = find_folders(part, around)
    if labels == "folders" and around and not any(folders):
        folders = [around.split("/")[-2]] * len(part)
    if labels == "none" or not any(folders):
        return nothing
    if not all(folders):
        alone = list(part.values())[folders.index("")]
        raise LabelError(f"{tree.path} has images in class folders and outside ({alone}); move those")
    first, last = min(folders), max(folders)
    if labels == "auto" and first[0] == "0" and all(re.fullmatch("[0-9]{5,}", name) for name in set(folders)):
        ignored.append(f"the numbers of the folders {first} to {last} (classes by --labels folders)")
        return nothing
    return "folders", folders


def read_listing(tree: Tree, folder: str, part: Places) -> Labels:
    """Return the labels in EDM's dataset.json: those of images by their names relative to its folder."""
    name = f"{folder}{LISTING} in {tree.path}"
    try:
        with tree.open(tree.listings[folder]) as file:
            text = file.read(LISTING_BYTES + 1)
        most = 32 * len(tree.images) + 1000  # more items would be wrong, and take gigabytes
        if len(text) > LISTING_BYTES or sum(map(text.count, b"[{,")) > most:
            raise ValueError("it is much longer than a list of the images")
        labels = parse_json(text)["labels"]
        if labels is not None and not all(isinstance(image, str) for image, _ in labels):
            raise TypeError
    except (*DAMAGED, KeyError, TypeError, ValueError) as error:
        wanted = '{"labels": [["name.png", 0], ...]} or null'
        raise LabelError(f"{name} cannot be read ({error or 'names are no text'}); write {wanted}") from error
    if labels is None:
        return None, [None] * len(part)
    given: dict[str, Any] = {}
    for image, label in labels:
        if given.setdefault(folder + normalise(image), label) != label:
            raise LabelError(f"{name} gives two labels for {image}; correct it")
    if without := next((place for place in part.values() if place not in given), None):
        raise LabelError(f"{name} gives no label for {without.removeprefix(folder)}; complete it")
    if unknown := given.keys() - tree.images.values():
        raise LabelError(f"{name} labels {min(unknown).removeprefix(folder)}, which is not there; correct it")
    return "listing", [given[place] for place in part.values()]


def find_captions(tree: Tree, names: Sequence[str], wanted: str) -> tuple[Captions | None, set[str]]:
    """Return the captions of images, in lists such as metadata.jsonl or in files beside them, and where these are."""
    by_place = {tree.images[name]: name for name in names}
    listed: dict[str, list[Any]] = {}
    used = set()
    for place in sorted(tree.rest) if wanted != "none" else ():
        kind = PurePath(place).name
        if kind in LISTS:
            try:
                rows = read_list(kind, tree.read(place, LONGEST_LIST), wanted, 32 * len(tree.images))
                for file, texts in rows:
                    used.add(place)
                    if name := by_place.get(normalise(place.removesuffix(kind) + file)):
                        listed.setdefault(name, []).extend(texts)
            except (*DAMAGED, ValueError) as error:
                raise ValueError(f"{place} in {tree.path} cannot be read ({describe(error)}); {REMEDY}.") from error
    if listed:
        check_complete(tree.path, names, np.array([name in listed for name in names]))
        return Captions(", ".join(sorted(used)), lambda index: listed[names[index]]), used
    stems = [tree.images[name].rpartition(".")[0] for name in names]
    known = {suffix: np.array([stem + suffix in tree.rest for stem in stems]) for suffix in (".txt", ".json")}
    suffix, captions = find_beside(
        tree.path, names, known, lambda suffix, i: tree.read(stems[i] + suffix, LONGEST_RECORD), wanted
    )
    return captions, {stem + suffix for stem in stems}


def number_folders(folders: Sequence[str]) -> tuple[list[int], dict[int, str], bool]:
    """Return class numbers, their names, and whether the names are the numbers; else they count the sorted names."""
    names = sorted(set(folders))
    if is_decimal := all(name.isdecimal() for name in names):
        names.sort(key=int)
    distinct = is_decimal and len(set(map(int, names))) == len(names) and int(names[-1]) < MOST_CLASSES
    number = {name: int(name) if distinct else i for i, name in enumerate(names)}
    return [number[folder] for folder in folders], {i: name for name, i in number.items()}, distinct
