"""Captions: where they are found, which one an image has, and what is wrong with them."""

import json
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from d2o.data.captions import pick_captions
from d2o.data.datasets import open_images
from refusal import refused

from .making import make_folder, make_parquet, make_tar, make_zip, named, random_pixels

COUNT = 6
PIXELS = random_pixels(COUNT)
IMAGES = named(PIXELS, "{}.png")
TEXTS = [f"a drawing of {i} \N{CAT}" for i in range(COUNT)]
ONE = [(text,) for text in TEXTS]


def line(**values: Any) -> bytes:
    return json.dumps(values).encode() + b"\n"


def beside(suffix: str, contents: list[bytes]) -> dict[str, bytes]:
    return {f"{i}{suffix}": content for i, content in enumerate(contents)}


def table(key: str = "text", contents: list[Any] = TEXTS) -> dict[str, bytes]:
    rows = [line(file_name=f"{i}.png", **{key: content}) for i, content in enumerate(contents)]
    return {"metadata.jsonl": b"".join(rows)}


LAYOUTS: dict[str, tuple[dict[str, bytes], str, list[tuple[str, ...]] | None]] = {
    "texts": (beside(".txt", [f"{text}\n".encode() for text in TEXTS]), "auto", ONE),
    "texts with a mark of their order of bytes": (beside(".txt", [t.encode("utf-8-sig") for t in TEXTS]), "auto", ONE),
    "texts by name": (beside(".txt", [text.encode() for text in TEXTS]), "txt", ONE),
    "empty texts": (beside(".txt", [b"", *(text.encode() for text in TEXTS[1:])]), "auto", [("",), *ONE[1:]]),
    "records": (beside(".json", [line(caption=text, url="") for text in TEXTS]), "auto", ONE),
    "records of several": (
        beside(".json", [line(text=[text, "other"]) for text in TEXTS]), "auto", [(text, "other") for text in TEXTS],
    ),
    "records by key": (beside(".json", [line(caption="no", title=text) for text in TEXTS]), "title", ONE),
    "texts before records": (
        beside(".txt", [text.encode() for text in TEXTS]) | beside(".json", [line(caption="no")] * COUNT), "auto", ONE,
    ),
    "records that say other things": (beside(".json", [line(boxes=[1])] * COUNT), "auto", None),
    "a table": (table(), "auto", ONE),
    "a table with empty lines": ({"metadata.jsonl": b"\n" + table()["metadata.jsonl"] + b"\n \n"}, "auto", ONE),
    "a table of several": (table("caption", [[text, ""] for text in TEXTS]), "auto", [(text, "") for text in TEXTS]),
    "a table with an image twice": (
        {"metadata.jsonl": table()["metadata.jsonl"] + line(file_name="0.png", text="again")},
        "auto",
        [(TEXTS[0], "again"), *ONE[1:]],
    ),
    "a table by key": (table("title"), "title", ONE),
    "a table without texts": (table("score", list(range(COUNT))), "auto", None),
    "a table of commas": (
        {"metadata.csv": ("file_name,text\r\n" + "".join(f'{i}.png,"{t}"\r\n' for i, t in enumerate(TEXTS))).encode()},
        "auto",
        ONE,
    ),
    "texts of something else": ({"readme.txt": b"about", "notes.txt": b"more"}, "auto", None),
    "none wanted": (beside(".txt", [b"\xff"] * COUNT) | {"metadata.jsonl": b"{"}, "none", None),
}  # fmt: skip


def found(path: Path, **options: Any) -> list[tuple[str, ...]] | None:
    images = open_images(path, **options)
    assert np.array_equal(images.pixels(range(COUNT)), PIXELS)
    assert ("captions (" in images.describe()) == images.captioned
    return [images.captions(i) for i in range(COUNT)] if images.captioned else None


@pytest.mark.parametrize("layout", LAYOUTS)
def test_captions_are_found_in_a_folder_and_a_zip(layout, tmp_path):
    files, wanted, expected = LAYOUTS[layout]
    folder = make_folder(tmp_path / "data", IMAGES | files)
    assert found(folder, captions=wanted) == expected
    archive = make_zip(tmp_path / "data.zip", IMAGES | files)
    assert found(archive, captions=wanted) == expected
    one, other = open_images(folder, captions=wanted), open_images(archive, captions=wanted)
    assert one.describe() == other.describe() and one.fingerprint == other.fingerprint


@pytest.mark.parametrize("layout", [layout for layout in LAYOUTS if "table" not in layout])
def test_captions_are_found_in_shards(layout, tmp_path):
    files, wanted, expected = LAYOUTS[layout]
    folder = make_folder(tmp_path / "data", IMAGES | files)
    assert found(make_tar(tmp_path / "data.tar", IMAGES | files), captions=wanted) == expected
    images = (open_images(path, captions=wanted) for path in (folder, tmp_path / "data.tar"))
    assert len({one.fingerprint for one in images}) == 1


@pytest.mark.parametrize(("name", "wanted"), [("caption", "auto"), ("prompt", "auto"), ("words", "words")])
@pytest.mark.parametrize("several", [False, True])
def test_captions_are_found_in_a_column(name, wanted, several, tmp_path):
    texts = [[text, "other"] if several else text for text in TEXTS]
    path = make_parquet(tmp_path / "a.parquet", {"image": list(IMAGES.values()), name: texts, "label": [1] * COUNT})
    assert found(path, captions=wanted) == [tuple(text) if several else (text,) for text in texts]
    assert found(path, captions="none") is None
    assert open_images(path, captions=wanted).num_classes == 1


def test_a_column_of_numbers_has_no_captions(tmp_path):
    path = make_parquet(tmp_path / "a.parquet", {"image": list(IMAGES.values()), "text": [1] * COUNT})
    assert found(path) is None
    with refused("no captions named 'text'", "--captions"):
        open_images(path, captions="text")


def test_tables_of_splits_are_relative_to_their_folders(tmp_path):
    files = {f"{split}/cat/{name}": content for split in ("train", "val") for name, content in IMAGES.items()}
    for split in ("train", "val"):
        rows = [line(file_name=f"cat/{i}.png", text=f"{split} {i}") for i in range(COUNT)]
        files[f"{split}/metadata.jsonl"] = b"".join(rows)
    folder = make_folder(tmp_path / "data", files)
    assert open_images(folder).captions(2) == ("train 2",)
    assert open_images(folder, split="val").captions(5) == ("val 5",)
    assert [open_images(folder, split="all").captions(i)[0] for i in (0, 6)] == ["train 0", "val 0"]


def test_what_was_found_is_said(tmp_path):
    files = IMAGES | LAYOUTS["texts"][0] | {"more.txt": b""}
    described = open_images(make_folder(tmp_path / "data", files)).describe()
    assert "6 with captions (.txt files)" in described and "ignored: 1 .txt files" in described
    assert "ignored: 7 .txt files" in open_images(tmp_path / "data", captions="none").describe()


WRONG: dict[str, tuple[dict[str, bytes], dict[str, Any], tuple[str, ...]]] = {
    "two are missing": (
        beside(".txt", [b"a"] * 4), {}, ("2 of 6 images", "4.png", "--captions none"),
    ),
    "one is missing in a table": (table(contents=TEXTS[:5]), {}, ("1 of 6 images", "5.png", "--captions none")),
    "one is null": (table(contents=[*TEXTS[:5], None]), {}, ("1 of 6 images", "5.png", "--captions none")),
    "a record lacks it": (beside(".json", [line(text="a"), *[line(url="a")] * 5]), {}, ("1.png", "'text' is missing")),
    "not UTF-8": (beside(".txt", [b"a", b"\xff\xfea", *[b"a"] * 4]), {}, ("1.png", "utf-8", "--captions none")),
    "half a letter": (table(contents=["\ud800", *TEXTS[1:]]), {}, ("0.png", "surrogates", "--captions none")),
    "too long": (beside(".txt", [b"a" * 65537] * 6), {}, ("0.png", "65,536 bytes", "--captions none")),
    "too long in bytes": (beside(".txt", ["\N{CAT}".encode() * 16385] * 6), {}, ("0.png", "65,536 bytes")),
    "a broken line": (
        {"metadata.jsonl": table()["metadata.jsonl"] + b'{"file_name": "'}, {},
        ("metadata.jsonl", "row 7", "--captions none"),
    ),
    "a short row": ({"metadata.csv": b"file_name,text\n0.png,a\n1.png\n"}, {}, ("metadata.csv", "row 3", "columns")),
    "an open quote": ({"metadata.csv": b'file_name,text\n0.png,"a\n'}, {}, ("metadata.csv", "row 2")),
    "a table without names": ({"metadata.jsonl": line(text="a")}, {}, ("row 1", "'file_name' is missing")),
    "a table in no text": ({"metadata.csv": b"file_name,text\n\xff,a\n"}, {}, ("metadata.csv", "utf-8")),
    "numbers": (table(contents=[5] * COUNT), {}, ("0.png", "neither a text nor a list", "--captions none")),
    "an empty list": (beside(".json", [line(text=[])] * COUNT), {}, ("0.png", "neither a text nor a list")),
    "not there": (LAYOUTS["texts"][0], {"captions": "title"}, ("no captions named 'title'", "--captions")),
}  # fmt: skip


@pytest.mark.parametrize("wrong", WRONG)
def test_what_is_wrong_is_named(wrong, tmp_path):
    files, options, says = WRONG[wrong]
    with refused(*says):
        open_images(make_folder(tmp_path / "data", IMAGES | files), **options)
    assert not open_images(tmp_path / "data", captions="none").captioned


def test_missing_values_of_a_column_are_counted(tmp_path):
    path = make_parquet(tmp_path / "a.parquet", {"image": list(IMAGES.values()), "text": [*TEXTS[:4], None, None]})
    with refused("2 of 6 images", "row 4 of a.parquet", "--captions none"):
        open_images(path)
    assert not open_images(path, captions="none").captioned


def test_arrays_have_no_captions_to_choose(tmp_path):
    np.savez(tmp_path / "a.npz", images=PIXELS)
    assert found(tmp_path / "a.npz") is None
    for path in (tmp_path / "a.npz", "digits"):
        with refused("no captions named 'text'", "--captions"):
            open_images(path, captions="text")


class TestStream:
    @pytest.fixture
    def images(self, tmp_path):
        """Captions that name their image, of which each has another number."""
        records = [line(text=[f"{i} {k}" for k in range(i + 1)]) for i in range(COUNT)]
        return open_images(make_folder(tmp_path / "data", IMAGES | beside(".json", records)))

    def test_each_image_has_one_of_its_own(self, images):
        seen = set()
        for batch in islice(images.batches(4, seed=3), 60):
            numbers = [int(text.split()[0]) for text in batch.captions]
            assert numbers == batch.number.tolist() and len(batch.captions) == 4
            seen |= set(batch.captions)
        assert seen == {text for i in range(COUNT) for text in images.captions(i)}, "sooner or later all are used"

    def test_any_start_and_any_rank_gives_those_of_the_whole_stream(self, images):
        whole = [text for batch in islice(images.batches(4, seed=5), 12) for text in batch.captions]
        assert list(next(images.batches(4, seed=5, start=17)).captions) == whole[17:21]
        ranks = [next(images.batches(4, seed=5, rank=rank, world=2)).captions for rank in range(2)]
        assert [*ranks[0], *ranks[1]] == whole[:4]
        assert whole != [text for batch in islice(images.batches(4, seed=6), 12) for text in batch.captions]

    def test_images_and_their_order_are_the_same_without(self, images, tmp_path):
        without = open_images(tmp_path / "data", captions="none")
        for one, other in islice(zip(images.batches(4), without.batches(4), strict=True), 5):
            assert (one.x0 == other.x0).all() and (one.number == other.number).all() and other.captions is None

    def test_a_subset_keeps_its_own(self, images):
        part = images.subset([4, 1])
        assert part.captions(1) == images.captions(1) and len(part.captions(0)) == 5
        assert {text.split()[0] for text in next(part.batches(4)).captions} == {"4", "1"}

    def test_a_model_without_text_does_not_read_them(self, images, tmp_path):
        (tmp_path / "data" / "0.json").unlink()
        assert next(images.for_model(0).batches(6)).captions is None
        with refused("0.png"):
            next(images.for_model(0, text=True).batches(6))

    def test_other_captions_are_other_data(self, images, tmp_path):
        before = images.fingerprint
        (tmp_path / "data" / "0.json").write_bytes(line(text="another"))
        assert open_images(tmp_path / "data").fingerprint != before
        without = {open_images(tmp_path / "data", captions="none").fingerprint, images.for_model(0).fingerprint}
        assert len(without) == 1 and before not in without


def test_all_captions_are_used_alike():
    picked = pick_captions([("a", "b", "c")] * 9000, np.arange(9000), 2**64 - 1)
    assert all(abs(picked.count(letter) - 3000) < 6 * 2000**0.5 for letter in "abc")
