"""One rule says what a name stands for: models, data and statistics, by content; every other name is an error."""

import json
import os
import re
import shutil
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import d2o
from d2o.checkpoints import CheckpointError, inspect
from d2o.checkpoints.places import REFERENCE, Place, locate

ARRAYS = {
    "images.npz": {"images": np.zeros((2, 8, 8, 3), np.uint8)},
    "statistics.npz": {"mu": np.zeros(2), "sigma": np.eye(2)},
}


@pytest.fixture
def there(tmp_path, tiny_denoiser, monkeypatch):
    """Return a folder, also the working one, with something of every kind in it."""
    for name, arrays in ARRAYS.items():
        np.savez(tmp_path / name, allow_pickle=False, **arrays)
    with zipfile.ZipFile(tmp_path / "edm.zip", "w") as archive:
        archive.writestr("00000/img.png", b"")
    (tmp_path / "x.parquet").write_bytes(b"PAR1")
    for name, first in (("shard", "0.png"), ("x.tar", "PK.png"), ("y.tar", "12345678{.png")):
        (tmp_path / name).write_bytes(tarfile.TarInfo(first).tobuf() + bytes(1024))
    torch.save({}, tmp_path / "state.pth.tar")
    (tmp_path / "faces.v2" / "0").mkdir(parents=True)
    d2o.save(tmp_path / "model.npz", tiny_denoiser())
    torch.save({}, tmp_path / "state.zip")
    (tmp_path / "run.safetensors").mkdir()
    d2o.save(tmp_path / "run.safetensors" / "ema.safetensors", tiny_denoiser(seed=1))
    (tmp_path / "unet").mkdir()
    (tmp_path / "unet" / "config.json").write_text("{}")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("length", range(1144, 1169, 8))
def test_a_header_s_length_is_no_pickle_s_start(tmp_path, length):
    """1152 is 80 04 00 ... in bytes, which pickles of protocol 4 begin with."""
    header = {"t": {"dtype": "F32", "shape": [], "data_offsets": [0, 4]}, "__metadata__": {"a": "x" * 1000}}
    content = json.dumps(header).encode().ljust(length)
    (tmp_path / "model").write_bytes(length.to_bytes(8, "little") + content + bytes(4))
    assert locate(tmp_path / "model").form == "safetensors"


@pytest.mark.parametrize(
    ("name", "kind", "form"),
    [
        ("model.npz", "model", "safetensors"),
        ("run.safetensors", "model", "run"),
        ("state.zip", "model", "torch"),
        ("unet", "model", "diffusers"),
        ("images.npz", "data", None),
        ("edm.zip", "data", None),
        ("x.parquet", "data", None),
        ("*.parquet", "data", None),
        ("shard", "data", None),
        ("x.tar", "data", None),
        ("y.tar", "data", None),
        ("*.tar", "data", None),
        ("state.pth.tar", "model", "torch"),
        ("faces.v2", "data", None),
        ("digits", "data", None),
        ("statistics.npz", "statistics", None),
    ],
)
def test_content_tells_what_a_name_stands_for(there, name: str, kind: Any, form: Any) -> None:
    assert locate(name) == locate(name, kind) == Place(kind, name, Path(name), form)
    others: Any = {"model", "data", "statistics"} - {kind}
    for other in others:
        with pytest.raises(CheckpointError, match=name.replace("*", ".")):
            locate(name, other)


def test_what_is_on_disk_goes_before_the_names_of_models(there):
    assert locate("digits-small").path.name == "digits-small.safetensors"
    (there / "run.safetensors").rename(there / "digits-small")
    assert locate("digits-small", "model").form == "run"
    (there / "digits-small").rename(there / "digits")
    assert locate("digits", "model").form == "run" and locate("digits", "model", "data").kind == "data"


@pytest.mark.usefixtures("there")
def test_a_name_of_a_model_and_of_data_is_what_is_wanted():
    assert locate("emoji", "model").kind == "model" and locate("emoji", "data").kind == "data"
    assert locate("emoji").kind == "model" and locate("emoji", *REFERENCE).kind == "data"


@pytest.mark.parametrize(
    ("name", "wanted", "meant"),
    [
        ("digits-smal", ("model",), "digits-small"),
        ("digit", ("data",), "digits"),
        ("digit", (), "digits"),
        ("modl.npz", ("model",), "model.npz"),
        ("./run.safetensor", (), "run.safetensors"),
        ("image.npz", ("data",), "images.npz"),
    ],
)
@pytest.mark.usefixtures("there")
def test_a_mistyped_name_gets_the_nearest_one(name, wanted, meant):
    with pytest.raises(CheckpointError, match=rf"{name}.*'{meant}'"):
        locate(name, *wanted)


@pytest.mark.usefixtures("there")
@pytest.mark.parametrize("kind", ["model", "data", "statistics"])
def test_what_is_offered_would_do(kind):
    """Everything here has the name of the file that is asked for, but for its last letter."""
    names = {"model": "thing1", "data": "thing2", "statistics": "thing3"}
    shutil.copy("model.npz", "thing1")
    shutil.copy("images.npz", "thing2")
    shutil.copy("statistics.npz", "thing3")
    Path("thing4").mkdir()  # neither images nor a model
    Path("thing5").write_text("notes")
    Path("thing6").touch()
    with pytest.raises(CheckpointError) as caught:
        locate("thing", kind)
    offered = re.findall(r"'([^']*)'", str(caught.value))
    assert offered == [names[kind]] and locate(offered[0], kind)
    if kind == "data":
        with pytest.raises(ValueError, match="did you mean thing2"):
            d2o.images("thing")


def test_a_folder_without_images_is_not_offered(there):
    (there / "photos").mkdir()
    for open_it in (lambda name: locate(name, "data"), d2o.images):
        with pytest.raises(ValueError) as caught:
            open_it("photo")
        assert "photos" not in str(caught.value)
    (there / "photos" / "a.png").touch()
    with pytest.raises(CheckpointError, match="'photos'"):
        locate("photo", "data")


def test_a_run_is_known_from_its_beginning(there, tiny_denoiser):
    run = there / "begun"
    run.mkdir()
    (run / "recipe.json").write_text("{}")
    for use in (d2o.load, inspect, locate):
        with pytest.raises(CheckpointError, match=r"begun.*checkpoint"):
            use(run)
    d2o.save(run / "checkpoint.safetensors", tiny_denoiser())
    (run / "grid.png").touch()
    assert locate(run).kind == "model" and d2o.load(run).image_shape == inspect(run).denoiser.image_shape
    with pytest.raises(CheckpointError, match="begun is a model"):
        locate(run, "data")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_that_may_not_be_read(there):
    (there / "model.npz").chmod(0)
    with pytest.raises(CheckpointError, match=r"model\.npz"):
        locate("model.npz")


def test_the_home_folder_may_be_named(there, monkeypatch):
    monkeypatch.setenv("HOME", str(there))
    assert locate("~/model.npz").path == there / "model.npz"
