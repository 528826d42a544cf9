"""What small files may cost: little files that stand for endless work, endless lists, and files that never end."""

import io
import json
import os
import resource
import shutil
import signal
import struct
import time
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import d2o
from d2o.checkpoints import CheckpointError, inspect
from d2o.checkpoints.readers import diffusers_folder
from d2o.cli.main import run
from d2o.errors import printable
from refusal import refused

from . import honest
from .encoder import Call, Encoder, Outside, Word, pickled

FOUR = Outside(("storage", Word("torch FloatStorage"), "0", "cpu", 4, None))
SETTINGS: dict[str, Any] = {"img_resolution": 8, "img_channels": 3, "label_dim": 0}


def network(**state: Any) -> bytes:
    return honest.edm_file(honest.persistent("EDMPrecond", {"_init_args": (), "_init_kwargs": SETTINGS, **state}))


def nested_storages() -> bytes:
    """Return a pickle with 300 storages, all in the same bytes, each with a long list to be followed."""
    system = {"little_endian": True, "more": [0] * 50_000}
    parts = [pickled(part, 2) for part in (honest.MAGIC, 1001, system, FOUR, ["0"])]
    stream = b"".join(parts) + struct.pack("<q", 4) + bytes(16)
    head = b"\x80\x04](B" + struct.pack("<I", len(stream)) + stream + b"\x94"
    return head + b"ctorch.storage\n_load_from_bytes\nh\x00\x85R" * 300 + b"e."


def nested_texts() -> bytes:
    """Return a pickle of protocol 2 with 300 storages in the same long text."""
    reference = Outside(("storage", Word("torch FloatStorage"), "0", "cpu", 200_000, None))
    text = honest.legacy_stream(reference, {"0": bytes(800_000)}, {"0": 200_000}).decode("latin-1")
    return pickled([Call("torch.storage _load_from_bytes", (Call("_codecs encode", (text, "latin1")),))] * 300, 2)


def attributes() -> bytes:
    """Return a network with 20,000 attributes, all the same array."""
    array = Encoder(4).from_numpy(np.zeros(4096))
    return network(**{f"a{number}": array for number in range(20_000)})


def modules() -> bytes:
    """Return a network of two modules, each of the same two modules, and so on: 2 ** 25 in all."""
    parts: dict[str, Any] = {}
    for _ in range(25):
        module = honest.persistent("Block", {"_parameters": {}, "_buffers": {}, "_modules": parts})
        parts = {"a": module, "b": module}
    return network(_parameters={}, _buffers={}, _modules=parts)


def long_settings() -> bytes:
    """Return a network that was made with 9,000 times the same long text."""
    made = {"_init_args": (), "_init_kwargs": SETTINGS | {"channel_mult": ["é" * 500_000] * 9000}}
    return honest.edm_file(honest.persistent("EDMPrecond", made))


def entries() -> bytes:
    """Return a torch file whose directory names a million files."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("archive/data.pkl", b"x")
    content = file.getvalue()
    start, end = content.index(b"PK\1\2"), content.index(b"PK\5\6")
    listed, count = content[start:end] * 1_000_000, 1_000_000
    long = b"PK\6\6" + struct.pack("<QHHLLQQQQ", 44, 45, 45, 0, 0, count, count, len(listed), start)
    where = b"PK\6\7" + struct.pack("<LQL", 0, start + len(listed), 1)
    return (
        content[:start]
        + listed
        + long
        + where
        + b"PK\5\6"
        + struct.pack("<HHHHLLH", *[0] * 2, *[65535] * 2, *[2**32 - 1] * 2, 0)
    )


def tensors(count: int) -> Callable[[], bytes]:
    def write() -> bytes:
        rows = (f'"{number}":{{"dtype":"F32","shape":[0],"data_offsets":[0,0]}}' for number in range(count))
        header = ("{" + ",".join(rows) + "}").encode()
        return struct.pack("<Q", len(header)) + header

    return write


FILES: dict[str, Callable[[], bytes]] = {
    "nested storages": nested_storages,
    "nested texts": nested_texts,
    "attributes": attributes,
    "modules": modules,
    "long settings": long_settings,
    "entries of a zip": entries,
    "tensors": tensors(100_000),
    "many more tensors": tensors(400_000),
    "a deep header": lambda: struct.pack("<Q", 200_000) + b'{"__metadata__":' + b"[" * 199_984,
    "sets": lambda: b"\x80\x04](" + b"\x8f" * 900_000 + b"e.",
}


@pytest.fixture(autouse=True)
def patience() -> Iterator[None]:
    """End a test that waits for ever."""
    signal.alarm(120)
    yield
    signal.alarm(0)


@pytest.mark.parametrize("name", FILES)
def test_a_hostile_file_costs_little(tmp_path, name):
    path = tmp_path / "model.pkl"
    path.write_bytes(FILES[name]())
    memory, began = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
    with refused("model.pkl", error=CheckpointError):
        inspect(path)
    assert time.process_time() - began < 5
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - memory < 500_000  # kilobytes


@pytest.fixture
def folder(tmp_path) -> Path:
    """Return a folder of diffusers in two parts of weights, with a codec's folder."""
    diffusers = pytest.importorskip("diffusers")
    unet = diffusers.UNet2DModel(
        sample_size=8, block_out_channels=(4, 8), norm_num_groups=4, layers_per_block=1, attention_head_dim=4,
        down_block_types=("DownBlock2D", "AttnDownBlock2D"), up_block_types=("AttnUpBlock2D", "UpBlock2D"),
    )  # fmt: skip
    path = tmp_path / "pipe"
    diffusers.DDPMPipeline(unet, diffusers.DDPMScheduler(clip_sample=False)).save_pretrained(path)
    unet.save_pretrained(path / "unet", max_shard_size="10KB")
    next(path.glob("unet/diffusion_pytorch_model.safetensors")).unlink(missing_ok=True)
    (path / "vae").mkdir()
    (path / "vae" / "config.json").write_text('{"_class_name": "AutoencoderKL"}')
    assert d2o.load(path).codec is not None
    return path


ENDLESS: dict[str, Callable[[Path], None]] = {"pipe": os.mkfifo, "zeros": lambda path: path.symlink_to("/dev/zero")}


@pytest.mark.parametrize("kind", ENDLESS)
class TestWhatNeverEnds:
    def test_files_of_a_folder(self, folder, kind):
        (folder / "unet" / "diffusion_pytorch_model.safetensors").unlink(missing_ok=True)
        for file in sorted(folder.rglob("*.*")):
            content = file.read_bytes()
            file.unlink()
            ENDLESS[kind](file)
            try:
                d2o.load(folder)  # without its scheduler or codec it is another model
            except CheckpointError as error:
                assert str(folder) in str(error)
            file.unlink()
            file.write_bytes(content)

    def test_files_of_a_run(self, tmp_path, kind):
        d2o.save(tmp_path / "checkpoint.safetensors", d2o.load("digits-small"))
        ENDLESS[kind](tmp_path / "ema.safetensors")
        with refused("ema.safetensors"):
            d2o.load(tmp_path)

    def test_a_base_and_a_codec(self, tmp_path, kind):
        model = d2o.load("digits-small")
        d2o.save(tmp_path / "delta.safetensors", model, base=model)
        ENDLESS[kind](tmp_path / "base.safetensors")
        with refused("base.safetensors"):
            d2o.load(tmp_path / "delta.safetensors", base=tmp_path / "base.safetensors")
        ENDLESS[kind](tmp_path / "config.json")
        with refused(str(tmp_path)):
            d2o.load("digits-small", codec=tmp_path)


class TestFolders:
    def test_long_and_deep_json(self, folder):
        for name, content in {
            "a million rows": json.dumps({"weight_map": {str(number): "a.safetensors" for number in range(400_000)}}),
            "deep": '{"weight_map": ' + "[" * 100_000 + "]" * 100_000 + "}",
            "many parts": json.dumps({"weight_map": {str(number): str(number) for number in range(50_000)}}),
        }.items():
            index = folder / "unet" / "diffusion_pytorch_model.safetensors.index.json"
            index.write_text(content)
            began = time.process_time()
            with refused(str(index), error=CheckpointError):
                d2o.load(folder)
            assert time.process_time() - began < 5, name

    def test_sizes_of_transformers(self, tmp_path):
        diffusers = pytest.importorskip("diffusers")
        sizes = {"sample_size": 4, "num_layers": 1, "num_attention_heads": 2, "attention_head_dim": 4}
        diffusers.DiTTransformer2DModel(**sizes, num_embeds_ada_norm=2).save_pretrained(tmp_path)
        file = tmp_path / "config.json"
        config = json.loads(file.read_text())
        memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        for change in (
            {"patch_size": 0}, {"sample_size": 10**6}, {"attention_head_dim": 10**9}, {"num_layers": 10**6},
            {"sample_size": 4096, "patch_size": 1, "attention_head_dim": 2048}, {"num_embeds_ada_norm": 10**12},
            {"in_channels": 10**6, "out_channels": 10**6}, {"num_attention_heads": 0}, {"attention_head_dim": -4},
        ):  # fmt: skip
            file.write_text(json.dumps(config | change))
            with refused(str(tmp_path), error=CheckpointError):
                diffusers_folder.load(tmp_path)
        assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - memory < 300_000  # kilobytes


class TestWords:
    def test_names_of_files_cannot_steer_a_terminal(self, tmp_path, capsys, monkeypatch):
        monkeypatch.chdir(tmp_path)
        name = "\x1b[31mred\x07\n.safetensors"
        shutil.copy(Path(d2o.__file__).parent / "checkpoints" / "shipped" / "digits-small.safetensors", name)
        for arguments in (["inspect", name], ["inspect", name[:-1]], ["sample", name, "--out", "\x1b[0m.bad"]):
            run(arguments)
            told = "".join(capsys.readouterr())
            assert told and "\x1b" not in told and "\x07" not in told
        Path("\x1b[31m").mkdir()
        assert run(["evaluate", "\x1b[31m", "digits"]) == 2 and "\x1b" not in capsys.readouterr().err

    def test_endless_words_are_cut(self):
        assert len(printable(f"It has the name {'x' * 10**6} in it.")) < 400
        assert printable("a/b c\u202ed\n") == "a/b c\\u202ed\\n"
