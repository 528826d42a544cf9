"""Which number a class has: a model's where the data says so, never by chance; else those that have images count."""

import json

import numpy as np
import pytest

import d2o
from d2o.cli.main import run
from d2o.data.classes import parse_classes
from d2o.data.datasets import open_images
from d2o.training.fit import finetune, pretrain
from refusal import refused

from .making import encode, make_folder, make_parquet, random_pixels

PNG = [encode(image) for image in random_pixels(8, 8, 1)]
JUDGE = {"networks": ["tf_efficientnet_lite0"], "size": 32, "width": 16, "weights": "random"}
SMALL = {"duration": 8, "batch_size": 8}
QUICK = {**SMALL, **{f"discriminator.{name}": value for name, value in JUDGE.items()}}


def classes(place, *names, count=2):
    """A folder with so many images of each class."""
    files = {f"{name}/{i}.png": PNG[(i + j) % 8] for j, name in enumerate(names) for i in range(count)}
    return make_folder(place, files)


def arrays(place, labels):
    np.savez(place, images=random_pixels(len(labels)), labels=np.array(labels))
    return place


def labels_of(path, **options):
    images = open_images(path, **options)
    return None if images.labels is None else images.labels.tolist()


@pytest.mark.parametrize(
    ("stored", "names"), [([1, 2, 3], "123"), ([7, 7, 2], "27"), ([0, 1, 2], "012"), ([5, 5, 5], "5")]
)
def test_without_a_model_the_classes_are_those_with_images(stored, names, tmp_path):
    images = open_images(arrays(tmp_path / "a.npz", stored))
    assert images.classes == tuple(names) and images.counts.min() > 0 and images.labels is not None
    assert [images.classes[label] for label in images.labels] == [str(label) for label in stored]


def test_stored_numbers_are_those_of_a_model(tmp_path):
    path = arrays(tmp_path / "a.npz", [1, 2, 3])
    assert labels_of(path, num_classes=10) == [1, 2, 3]
    assert open_images(path, num_classes=10).counts.tolist() == [0, 1, 1, 1, 0, 0, 0, 0, 0, 0]
    with refused("label 3", "0 to 2", "--classes 1=0,2=1,3=2"):
        open_images(path, num_classes=3)
    assert labels_of(path, num_classes=3, classes={"1": 0, "2": 1, "3": 2}) == [0, 1, 2]


def test_folders_of_other_names(tmp_path):
    path = classes(tmp_path / "data", "dog", "cat")
    assert labels_of(path, num_classes=2) == [0, 0, 1, 1]
    with refused("2 classes", "cat, dog", "10", "--classes cat=0,dog=1"):
        open_images(path, num_classes=10)
    images = open_images(path, num_classes=10, classes={"cat": 3, "dog": 5})
    assert images.labels is not None and images.labels.tolist() == [3, 3, 5, 5]
    assert images.classes[3:6] == ("cat", "4", "dog") and images.num_classes == 10
    for wrong, says in (({"cat": 3}, "dog"), ({"cat": 3, "dgo": 5}, "'dog'"), ({"cat": 3, "dog": 10}, "label 10")):
        with refused(says, "--classes"):
            open_images(path, num_classes=10, classes=wrong)
    assert labels_of(path, classes={"cat": 0, "dog": 0}) == [0] * 4, "two names may be one class"


def test_a_model_that_knows_the_names_of_its_classes(tmp_path):
    path = classes(tmp_path / "data", "cat", "dog")
    assert labels_of(path, num_classes=3, class_names=("dog", "emu", "cat")) == [2, 2, 0, 0]
    with refused("the class dog", "cat, emu", "--classes"):
        open_images(path, num_classes=2, class_names=("cat", "emu"))
    with refused("the class dog", "'dogs'", "--classes"):
        open_images(path, num_classes=2, class_names=("cat", "dogs"))
    assert open_images(path, num_classes=3, class_names=("dog", "emu", "cat")).describe().count("emu have no images")
    assert labels_of(classes(tmp_path / "n", "3", "4"), num_classes=3, class_names=("3", "4", "5")) == [0, 0, 1, 1]
    assert labels_of(arrays(tmp_path / "a.npz", [1, 0]), num_classes=2, class_names=("cat", "dog")) == [1, 0]


def test_no_labels_for_a_model_with_classes(tmp_path):
    path = make_folder(tmp_path / "data", {"00000/a.png": PNG[0], "00001/b.png": PNG[1]})
    with refused("no labels", "10 classes", "--labels folders"):
        open_images(path, num_classes=10)
    with refused("no labels", "--classes"):
        open_images(path, classes={"cat": 0})


@pytest.mark.parametrize("labels", [[["0.png", "x"]], [["1.png", 0]], "x"])
def test_no_error_offers_to_ignore_labels_that_a_model_needs(labels, tmp_path):
    path = make_folder(tmp_path / "data", {"0.png": PNG[0], "dataset.json": json.dumps({"labels": labels}).encode()})
    with refused("--labels none"):
        open_images(path)
    assert labels_of(path, labels="none") is None
    with pytest.raises(ValueError, match="data") as caught:
        open_images(path, num_classes=2)
    assert "none" not in str(caught.value)


class TestTables:
    def rows(self, count):
        return [{"bytes": PNG[i % 8], "path": None} for i in range(count)]

    def table(self, path, labels, names=None):
        import pyarrow as arrow
        import pyarrow.parquet as parquet

        features = {"label": {"names": names, "_type": "ClassLabel"}}
        metadata = {"huggingface": json.dumps({"info": {"features": features}})} if names else {}
        path.parent.mkdir(parents=True, exist_ok=True)
        table = arrow.table({"image": self.rows(len(labels)), "label": labels})
        parquet.write_table(table.replace_schema_metadata(metadata), path)

    def test_names_of_hugging_face(self, tmp_path):
        self.table(tmp_path / "a.parquet", [2, 0, 2], ["crane", "dog", "crane"])
        images = open_images(tmp_path / "a.parquet")
        assert images.classes == ("crane 0", "crane 2") and labels_of(tmp_path / "a.parquet", num_classes=3) == [
            2,
            0,
            2,
        ]
        assert open_images(tmp_path / "a.parquet", num_classes=3).classes == ("crane 0", "1", "crane 2")

    def test_names_are_never_taken_for_numbers(self, tmp_path):
        self.table(tmp_path / "a.parquet", [0, 1], ["cat", "dog"])
        assert labels_of(tmp_path / "a.parquet", num_classes=3, class_names=("dog", "emu", "cat")) == [2, 0]
        with refused("the class cat", "--classes"):
            open_images(tmp_path / "a.parquet", num_classes=2, class_names=("emu", "yak"))

    @pytest.mark.parametrize("names", [7, {"a": 1}, [[1]], [None]])
    def test_names_that_are_none(self, names, tmp_path):
        self.table(tmp_path / "a.parquet", [1, 1], names)
        assert labels_of(tmp_path / "a.parquet") == [0, 0]

    @pytest.mark.parametrize("names", [("train-00000-of-00001", "test-00000-of-00001"), ("train/0000", "test/0000")])
    def test_splits(self, names, tmp_path):
        for name, label in zip(names, (4, 5), strict=True):
            self.table(tmp_path / "data" / f"{name}.parquet", [label])
        images = open_images(tmp_path / "data")
        assert images.classes == ("4",) and "the split test (1 files; --split test or all)" in images.describe()
        assert open_images(tmp_path / "data", split="test").classes == ("5",)
        assert open_images(tmp_path / "data", split="all").classes == ("4", "5")
        with refused("val", "test, train", "--split"):
            open_images(tmp_path / "data", split="val")

    def test_files_that_are_no_splits(self, tmp_path):
        for name in ("a", "b"):
            make_parquet(tmp_path / "data" / f"{name}.parquet", {"image": self.rows(2)})
        (tmp_path / "data/c.png").write_bytes(PNG[0])
        assert len(open_images(tmp_path / "data")) == 4 and "1 .png files" in open_images(tmp_path / "data").describe()
        with refused("no splits", "--split"):
            open_images(tmp_path / "data", split="train")


@pytest.mark.parametrize("name", ["digits", "a.npz"])
def test_what_has_no_splits(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    arrays(tmp_path / "a.npz", [0, 1])
    with refused(name, "no splits", "--split"):
        open_images(name, split="train")


def test_class_numbers_as_text():
    assert parse_classes("cat=3, a=b=5") == {"cat": 3, "a=b": 5}
    for wrong in ("", "cat", "cat=", "=3", "cat=-1", "cat=x", "cat=1,cat=2", "cat=99999999"):
        with refused("--classes", "cat=3,dog=5"):
            parse_classes(wrong)


class TestRuns:
    """From data to a teacher to a student: every class keeps its number."""

    @pytest.fixture
    def teacher(self, tmp_path):
        backbone = {"kind": "song_unet", "channels": 8, "channel_multipliers": [1], "num_blocks": 1}
        changes = {**SMALL, "backbone": {**backbone, "attention_resolutions": []}}
        return pretrain(classes(tmp_path / "data", "3", "4", "5"), out=tmp_path / "teacher", **changes)

    def test_a_teacher_knows_its_classes(self, teacher, tmp_path):
        assert teacher.denoiser.class_names == d2o.load(tmp_path / "teacher").class_names == ("3", "4", "5")
        data = classes(tmp_path / "part", "4", "5", count=4)
        for i, start in enumerate((teacher.denoiser, tmp_path / "teacher")):
            student = finetune(start, data, out=tmp_path / f"student{i}", **QUICK).denoiser
            assert student.class_names == ("3", "4", "5")
        with refused("the class 6", "--classes"):
            finetune(teacher.denoiser, classes(tmp_path / "other", "5", "6"), out=tmp_path / "no", **QUICK)

    def test_images_that_were_opened_for_no_model(self, tiny_denoiser, tmp_path, caplog):
        images = open_images(classes(tmp_path / "data", "1", "3"))
        fitted = images.subset([0, 3]).for_model(5)
        assert fitted.labels is not None and fitted.labels.tolist() == [1, 3] and fitted.num_classes == 5
        with caplog.at_level("INFO", "d2o"), refused("label 3", "0 to 1"):
            finetune(tiny_denoiser(classes=2), images, out=tmp_path / "no", **QUICK)

    def test_every_command_says_what_it_found(self, tmp_path, capsys, monkeypatch):
        monkeypatch.chdir(tmp_path)
        classes(tmp_path / "data", "0", "1", "notes", count=4)
        (tmp_path / "data/readme.txt").touch()
        small = "--features pixels --labels folders --classes 0=0,1=1,notes=9"
        for command in ("statistics data data.npz", "evaluate data digits --labels none --images 12"):
            words = small if command.startswith("stat") else "--features pixels"
            assert run([*command.split(), *words.split()]) == 0
            told = capsys.readouterr()
            assert "data: 12 images of 1x8x8; " in told.err and "ignored: 1 .txt files" in told.err
            assert "ignored" not in told.out
        assert "9 = notes (4)" not in told.err and "no classes" in told.err

    def test_class_numbers_on_the_command_line(self, tmp_path, capsys, monkeypatch):
        monkeypatch.chdir(tmp_path)
        classes(tmp_path / "data", "cat", "dog", count=4)
        line = ["finetune", "--from", "digits-teacher", "--data", "data", "--recipe", "digits-d2o-f", "--out", "run"]
        line += ["--images", "8", "--batch", "8"]
        assert run(line) == 2
        assert "--classes cat=0,dog=1" in capsys.readouterr().err
        assert run([*line, "--classes", "cat=3,dog=5"]) == 0
        assert "3 = cat (4), 5 = dog (4); the model's classes 0, 1, 2, 4, 6, 7, 8, 9" in capsys.readouterr().err
        assert json.loads((tmp_path / "run/recipe.json").read_text())["data"]["classes"] == 10
