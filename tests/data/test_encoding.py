"""Encoding goes on after a kill and mends damage, and what it has written is enough for an exact run."""

import json
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys

import numpy as np
import pytest
import torch

from d2o.cli.main import run
from d2o.data import encoding
from d2o.data.encodings import INDEX, Encodings
from d2o.encoders.codec import Autoencoder

from .encoded import COUNT, MASKED, PER_SHARD, WHOM, data, encoded, open_images, small_shards

__all__ = ["data", "encoded", "small_shards"]
pytestmark = pytest.mark.filterwarnings("ignore")


def encode_and_die(pipeline, data, out, shard):
    """Encode until a shard has been written under its temporary name, and be killed then."""
    torch.set_num_threads(1)
    save = encoding.save_file

    def save_once_more(tensors, file, metadata):
        save(tensors, file, metadata)
        if f"{shard:05d}" in str(file):
            os.kill(os.getpid(), signal.SIGKILL)

    encoding.save_file, encoding.MOST_IMAGES = save_once_more, PER_SHARD
    run(["encode", str(pipeline), "--data", str(data), "--out", str(out), "--precision", "float32"])


def test_a_killed_command_continues_at_its_shard(encoded, data, tmp_path, monkeypatch):
    pipeline, whole = encoded(MASKED)
    process = multiprocessing.get_context("fork").Process(target=encode_and_die, args=(pipeline, data, tmp_path, 1))
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    (shard,) = tmp_path.glob("0*.safetensors")
    before = shard.stat().st_mtime_ns
    with pytest.raises(ValueError, match="not complete"):
        open_images(tmp_path)
    seen, encode = [], Autoencoder.encode
    monkeypatch.setattr(Autoencoder, "encode", lambda self, x: seen.append(len(x)) or encode(self, x))
    assert run(["encode", str(pipeline), "--data", str(data), "--out", str(tmp_path), "--precision", "float32"]) == 0
    assert sum(seen) == COUNT - PER_SHARD
    assert shard.stat().st_mtime_ns == before
    assert {file.name for file in tmp_path.iterdir()} == {file.name for file in whole.iterdir()}
    ours, theirs = Encodings(tmp_path), Encodings(whole)
    assert np.array_equal(ours.keys, theirs.keys)
    torch.testing.assert_close(ours.latents(range(COUNT)), theirs.latents(range(COUNT)), rtol=0, atol=1e-5)
    torch.testing.assert_close(ours.text(range(4)).tokens, theirs.text(range(4)).tokens, rtol=0, atol=1e-5)


def test_a_damaged_shard_is_named_and_replaced(encoded, data, tmp_path):
    pipeline, whole = encoded(MASKED)
    out = shutil.copytree(whole, tmp_path / "encoded")
    shard, sound = out / "00001.safetensors", (out / "00001.safetensors").read_bytes()
    command = ["encode", str(pipeline), "--data", str(data), "--out", str(out), "--precision", "float32"]
    for damage in (sound[:-7], sound[:100], b"", b"\xff" * 100, sound[:-1] + bytes([sound[-1] ^ 1])):
        shard.write_bytes(damage)
        if len(damage) < len(sound):
            with pytest.raises(ValueError, match=r"00001\.safetensors.*d2o encode"):
                open_images(out)
        assert run(command) == 0
        assert encoding.is_sound(shard)
        assert len(open_images(out)) == COUNT
    shutil.copy(out / "00002.safetensors", shard)  # of another number of images
    with pytest.raises(ValueError, match=r"00001\.safetensors.*d2o encode"):
        open_images(out)


def test_whom_to_name_goes_with_the_encodings(encoded, data, tmp_path):
    pipeline, whole = encoded(MASKED)
    assert open_images(data).cache.decode.source.attribution == WHOM
    assert open_images(whole).cache.decode.source.attribution == WHOM
    out = shutil.copytree(whole, tmp_path / "of an older version")
    index = json.loads((out / INDEX).read_text())
    del index["attribution"]
    (out / INDEX).write_text(json.dumps(index))
    assert open_images(out).cache.decode.source.attribution == ""
    assert run(["encode", str(pipeline), "--data", str(data), "--out", str(out), "--precision", "float32"]) == 0
    assert open_images(out).cache.decode.source.attribution == WHOM


TEXT_ENCODERS = ("clip", "t5", "gemma2", "qwen2_5_vl", "qwen3")
"""Diffusers itself imports others, and the base of transformers, where that is installed."""
PROGRAM = """
import sys
import torch
torch.set_num_threads(1)
import d2o

pipeline, data, out = sys.argv[1:]
changes = {"duration": 24, "batch_size": 8, "micro_batch_size": 4, "discriminator": {"kind": "convolutional"}}

def stop(moments, _duration, _title):
    next(moments), next(moments)
    moments.close()

def finetune(name, **more):
    habits = d2o.Habits(save_every=8)
    return d2o.finetune(d2o.load(pipeline), data, out=f"{out}/{name}", habits=habits, **changes, **more)

whole = finetune("whole").denoiser.state_dict()
assert finetune("stopped", watch=stop).images == 24  # as asked for
assert sum(1 for _ in open(f"{out}/stopped/metrics.jsonl")) < 3
again = finetune("stopped").denoiser.state_dict()
assert all(torch.equal(whole[name], again[name]) for name in whole), "a continued run has other bits"
print("imported:", *sys.modules)
"""


def test_a_run_on_encodings_opens_no_text_encoder_and_continues_exactly(encoded, tmp_path):
    pipeline, out = encoded(MASKED)
    copy = shutil.copytree(pipeline, tmp_path / "pipeline")
    shutil.rmtree(copy / "text_encoder")
    shutil.rmtree(copy / "tokenizer")
    program = [sys.executable, "-c", PROGRAM, str(copy), str(out), str(tmp_path)]
    done = subprocess.run(program, capture_output=True, text=True, timeout=280, check=False)
    assert done.returncode == 0, done.stderr
    modules = set(done.stdout.rpartition("imported:")[2].split())
    assert not {f"transformers.models.{one}.modeling_{one}" for one in TEXT_ENCODERS} & modules
