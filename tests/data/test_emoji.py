"""Pictures of emoji: those that come with d2o, those that are built from packages, and what is held out."""

import json
import re
import shutil
import zipfile
from collections import Counter
from itertools import product

import numpy as np
import pytest

import needs
from d2o.cli.main import run
from d2o.data.datasets import open_images
from d2o.data.emoji import GROUPS, LONGEST_CAPTION, NAMES, STYLES, build, clean, divide, read_pictures, write_captions
from d2o.data.layout import ATTRIBUTION
from d2o.data.sources import SHIPPED
from emoji_packages import CONCEPTS, make_packages
from refusal import refused

PNG = ("noto", "twemoji")
CAPTION = re.compile(r"[a-z0-9]+( [a-z0-9]+)*")


@pytest.fixture(scope="module")
def packages(tmp_path_factory):
    return make_packages(tmp_path_factory.mktemp("npm"))


class TestBuiltIn:
    @pytest.fixture(scope="class")
    def images(self):
        return open_images("emoji", split="all")

    def test_it_has_pictures_on_white(self, images):
        assert images.shape == (3, 32, 32) and not images.num_classes
        pixels = images.pixels(range(len(images)))
        assert len(images) >= 1900
        assert len(np.unique(pixels.reshape(len(images), -1), axis=0)) > 0.99 * len(images), "some flags are alike"
        border = np.concatenate([pixels[:, 0], pixels[:, -1], pixels[:, :, 0], pixels[:, :, -1]], axis=1)
        assert (border == 255).all(2).mean() > 0.8
        assert (pixels != 255).any(axis=(1, 2, 3)).all()

    def test_each_has_captions(self, images):
        for index in range(len(images)):
            texts = images.captions(index)
            assert len(texts) >= 2 and all(CAPTION.fullmatch(text) for text in texts)
        assert images.fingerprint != open_images("emoji", split="all", captions="none").fingerprint

    def test_records_are_those_of_the_images(self, images):
        pictures = read_pictures()
        names = images.cache.decode.source.names
        assert set(names) == set(pictures)
        for index, name in enumerate(names):
            picture = pictures[name]
            assert images.captions(index) == tuple(picture.text) and picture.text[0] == f"noto {picture.name}"
            assert picture.group in GROUPS and picture.style == "noto"
        (heart,) = [place for place, name in enumerate(names) if pictures[name].name == "red heart"]
        red, green, blue = images.pixels([heart])[0, 16, 16].astype(int)
        assert red > 150 > max(green, blue) + 50
        assert len({picture.name for picture in pictures.values()}) == len(pictures), "names tell pictures apart"

    def test_splits_share_no_concept(self):
        train, test = ({*open_images("emoji", split=s).cache.decode.source.names} for s in ("train", "test"))
        assert len(test) == len(train | test) * 3 // 100 and not train & test
        assert open_images("emoji").fingerprint == open_images("emoji", split="train").fingerprint

    def test_smileys_are_a_group(self):
        images = open_images("emoji-smileys", split="all")
        pictures = read_pictures()
        groups = [pictures[name].group for name in images.cache.decode.source.names]
        assert groups == ["smileys"] * 169

    def test_licences_travel_with_it(self):
        assert "Apache License" in (SHIPPED / "LICENSE").read_text()
        beside = (SHIPPED / ATTRIBUTION).read_text()
        with zipfile.ZipFile(SHIPPED / "emoji.zip") as archive:
            assert archive.read(ATTRIBUTION).decode() == beside
        assert all(word in beside for word in ("Noto Emoji", "Google", "emojibase", "MIT License", "Apache License"))
        whom = open_images("emoji").cache.decode.source.attribution
        assert "Noto Emoji" in whom and beside.startswith(whom) and "Permission" not in whom


class TestBuild:
    def test_a_file_is_built_and_opened(self, packages, tmp_path):
        counts = build(packages, tmp_path / "a.zip", styles=PNG)
        pictures = read_pictures(tmp_path / "a.zip")
        tones = len([i for i in range(CONCEPTS - 3) if i % 5 == 0])
        assert sum(counts.values()) == len(pictures) == 2 * (CONCEPTS + tones)
        assert {picture.group for picture in pictures.values()} == {"smileys", "people", "flags"}
        for split in ("train", "val", "test"):
            images = open_images(tmp_path / "a.zip", split=split)
            assert len(images) == counts[split] and images.captioned and "ATTRIBUTION" not in images.describe()
        pixels = open_images(tmp_path / "a.zip", split="all").pixels(range(len(pictures)))
        assert (pixels[:, [0, 0, -1, -1], [0, -1, 0, -1]] == 255).all() and (pixels[:, 16, 16, 2] == 200).all()
        assert len({picture.text[0] for picture in pictures.values()}) == len(pictures)

    def test_it_is_the_same_again(self, packages, tmp_path):
        for name in ("a", "b"):
            build(packages, tmp_path / f"{name}.zip", styles=("noto",), groups=("flags",))
        assert (tmp_path / "a.zip").read_bytes() == (tmp_path / "b.zip").read_bytes()

    def test_other_groups_beside_it_do_not_change_what_is_held_out(self, packages, tmp_path):
        build(packages, tmp_path / "all.zip", styles=PNG, seed=1)
        every = set(read_pictures(tmp_path / "all.zip"))
        for group in {name.split("/")[1].split("-")[0] for name in every}:
            build(packages, tmp_path / "one.zip", styles=PNG, groups=(group,), seed=1)
            assert set(read_pictures(tmp_path / "one.zip")) == {name for name in every if f"/{group}-" in name}

    @pytest.mark.parametrize("size", [32, 64])
    def test_sides_are_halved_by_averaging(self, packages, tmp_path, size):
        build(packages, tmp_path / "a.zip", styles=("twemoji",), groups=("flags",), size=size)
        images = open_images(tmp_path / "a.zip", split="all")
        assert images.shape == (3, size, size)
        covered = (255 - images.pixels([0]).astype(float)[0, ..., 1]).mean() / 255
        assert covered == pytest.approx(np.pi * 24**2 / 64**2, abs=0.005), "the disc has its area at every size"

    def test_without_tones_each_concept_is_one_picture(self, packages, tmp_path):
        build(packages, tmp_path / "a.zip", styles=PNG, tones=False)
        pairs = Counter((picture.concept, picture.style) for picture in read_pictures(tmp_path / "a.zip").values())
        assert len(pairs) == 2 * CONCEPTS and set(pairs.values()) == {1}

    def test_pictures_that_differ_in_tone_stay_together(self, packages, tmp_path):
        build(packages, tmp_path / "a.zip", styles=PNG)
        splits: dict = {}
        for name, picture in read_pictures(tmp_path / "a.zip").items():
            splits.setdefault((picture.concept, picture.style), set()).add(name.split("/")[0])
        assert all(len(found) == 1 for found in splits.values())

    def test_fluent_is_drawn_from_svg_without_flags_of_unknown_origin(self, packages, tmp_path):
        needs.package("resvg_py")
        build(packages, tmp_path / "a.zip")
        pictures = read_pictures(tmp_path / "a.zip")
        names = {style: {p.name for p in pictures.values() if p.style == style} for style in STYLES}
        assert names["noto"] - names["fluent"] == {"flag cote d ivoire"} and "black flag" in names["fluent"]
        images = open_images(tmp_path / "a.zip", split="all")
        pixels = dict(zip(images.cache.decode.source.names, images.pixels(range(len(images))), strict=True))
        for name in pixels:
            if "-fluent-" in name:
                twin = name.partition("/")[2].replace("fluent", "noto")
                other = next(pixels[one] for one in pixels if one.endswith(twin))
                assert np.abs(pixels[name].astype(int) - other).mean() < 3

    def test_attribution_names_the_styles_that_are_there(self, packages, tmp_path):
        build(packages, tmp_path / "a.zip", styles=("twemoji",), groups=("flags",))
        whom = open_images(tmp_path / "a.zip", split="all").cache.decode.source.attribution
        assert "Twemoji" in whom and "CC-BY 4.0" in whom and "Noto" not in whom
        assert all(len(line) <= 200 for line in whom.splitlines()), "which is what a model card quotes"


class TestRefusals:
    def test_missing_and_other_packages_name_npm(self, packages, tmp_path):
        with refused("node_modules", NAMES.name, "npm install", "emoji-datasource-google@16.0.0"):
            build(tmp_path / "node_modules", tmp_path / "a.zip", styles=("noto",))
        other = shutil.copytree(packages, tmp_path / "other")
        place = other / STYLES["noto"].name / "package.json"
        for text in ('{"version": "15.1.2"}', "{", "[]", '{"version": {"a": 1}}'):
            place.write_text(text)
            with refused("emoji-datasource-google", "16.0.0", "npm install emojibase-data@17.0.0"):
                build(other, tmp_path / "a.zip", styles=("noto",))
        assert not (tmp_path / "a.zip").exists()

    def test_damaged_packages_are_named(self, packages, tmp_path):
        other = shutil.copytree(packages, tmp_path / "other")
        picture = other / STYLES["noto"].name / STYLES["noto"].used / "1f3f4.png"
        for content in (b"", b"\x89PNG broken"):
            picture.write_bytes(content)
            with refused("1f3f4.png", "install"):
                build(other, tmp_path / "a.zip", styles=("noto",))
        for text in ("{", "[1]", '[{"group": 0}]', json.dumps([{"group": 0, "hexcode": 3, "label": "a"}])):
            (other / NAMES.name / NAMES.used).write_text(text)
            with refused(str(other), "install"):
                build(other, tmp_path / "a.zip", styles=("noto",))
        assert not list(tmp_path.glob("*a*.zip"))

    @pytest.mark.parametrize(
        ("options", "names"),
        [
            (["--styles", "notto"], ("'notto'", "'noto'")),
            (["--groups", "smiley"], ("'smiley'", "'smileys'")),
            (["--out", "a.npz"], ("a.npz", ".zip")),
            (["--seed", "-1"], ("--seed -1",)),
        ],
    )
    def test_wrong_options_are_one_sentence(self, packages, tmp_path, monkeypatch, capsys, options, names):
        monkeypatch.chdir(tmp_path)
        assert run(["emoji", "--packages", str(packages), "--styles", "noto", "--out", "a.zip", *options]) == 2
        told = capsys.readouterr().err
        assert all(name in told for name in names) and "Traceback" not in told and not list(tmp_path.iterdir())

    def test_without_a_renderer_fluent_names_it(self, packages, tmp_path, monkeypatch):
        monkeypatch.setattr("d2o.data.emoji.find_spec", lambda _: None)
        with refused("resvg-py", "pip install"):
            build(packages, tmp_path / "a.zip")


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("styles", [1, 2, 3])
def test_what_is_held_out_is_seen_elsewhere(seed, styles):
    pairs = list(product([f"concept {i}" for i in range(300)], list(STYLES)[:styles]))
    parts = divide(pairs, seed)
    assert parts == divide(pairs[::-1], seed) and parts != divide(pairs, seed + 1) and set(parts) == set(pairs)
    train, val, test = ({pair for pair in pairs if parts[pair] == split} for split in ("train", "val", "test"))
    concepts = {concept for concept, _ in test}
    assert len(concepts) == 9 and not concepts & {concept for concept, _ in train | val}
    assert len(val) == (len(pairs) // 10 if styles > 1 else 0)
    for concept, style in val:
        assert any(one == concept for one, _ in train) and any(one == style for _, one in train)


def test_captions_are_words_of_ascii():
    assert clean("Côte d’Ivoire: keycap #") == ["cote", "d", "ivoire", "keycap", "hash"]
    assert write_captions("noto", "sun", []) == ["noto sun", "sun"]
    texts = write_captions("noto", "sun", [f"word{i}" for i in range(40)])
    assert max(len(text.split()) for text in texts) == LONGEST_CAPTION and len(set(texts)) == len(texts)
    assert {f"word{i}" for i in range(40)} <= {word for text in texts for word in text.split()}
