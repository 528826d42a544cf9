"""A full disk: one sentence with exit code 2, old files kept, nothing left over, and runs go on later."""

import resource
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

import pytest

from d2o.cli.main import run

from .command import arguments, assert_same_result, complaint

LIMIT = 4096
"""Bytes that a file may have: the system's own refusal, as of a full disk."""
WRITERS = {  # what is written: bytes that fit
    "convert MODEL out.safetensors": "out.safetensors",
    "export MODEL out.safetensors --to safetensors": "out.safetensors",
    "export MODEL out.pt2 --to torch": "out.pt2",
    "export MODEL out.onnx --to onnx": "out.onnx",
    "sample MODEL --seeds 0-399 --out out.png": "out.png",
    "sample MODEL --seeds 0-399 --out out.npz": "out.npz",
    "sample MODEL --seeds 0-399 --out out.zip": "out.zip",
    "export MODEL out --to diffusers": "out",
    "statistics DATA out.npz --features pixels": "out.npz",
}
NEEDS = {"out.onnx": "onnxscript", "out": "diffusers"}


@contextmanager
def limited(size: int) -> Iterator[None]:
    """Let no file become larger than this, for no longer than it must be: pytest's own output may be a file."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("command", WRITERS)
def test_every_writer_says_so_and_leaves_what_was_there(command, teacher, tiny_data, tmp_path, monkeypatch, capsys):
    name = WRITERS[command]
    pytest.importorskip(NEEDS.get(name, "torch"))
    monkeypatch.chdir(tmp_path)
    if "." in name:
        Path(name).write_text("old")
    words = command.replace("MODEL", str(teacher)).replace("DATA", str(tiny_data)).split()
    with limited(LIMIT):
        assert run(words) == 2
    sentence = complaint(capsys.readouterr().err)
    assert name in sentence and "ulimit" in sentence
    assert [(file.name, file.read_text()) for file in tmp_path.iterdir()] == ([(name, "old")] if "." in name else [])


def test_a_run_stops_with_its_last_checkpoint_and_goes_on_when_there_is_room(
    tmp_path, tiny_data, finished, teacher, capsys
):
    out = tmp_path / "run"
    words = arguments(teacher, tiny_data, out)
    for name in ("checkpoint.safetensors", "metrics.jsonl"):
        capsys.readouterr()
        with limited(int(0.8 * (finished / name).stat().st_size)):
            assert run(words) == 2
        assert "Cannot write" in complaint(capsys.readouterr().err)
        log = (out / "metrics.jsonl").read_text()
        assert not log or log.endswith("}\n")
    assert run(words) == 0
    assert_same_result(out, finished)


def test_a_file_system_that_is_full_to_the_last_byte(tmp_path, teacher, tiny_data, finished):
    if shutil.which("unshare") is None or subprocess.run(["unshare", "-rm", "true"], capture_output=True).returncode:
        pytest.skip("file systems cannot be mounted here")
    train = " ".join([sys.executable, "-m", "d2o", *arguments(teacher, tiny_data, Path("run"))])
    track = "--track tensorboard" if find_spec("tensorboard") else ""
    script = f"""
        mount -t tmpfs -o size=20m tmpfs {tmp_path} && cd {tmp_path}
        head -c 13000000 /dev/zero > other
        {train} {track}; echo code $?
        rm other
        {train}; echo code $?
        cmp run/ema.safetensors {finished}/ema.safetensors && echo same
    """
    done = subprocess.run(["unshare", "-rm", "sh", "-c", script], capture_output=True, text=True, timeout=300)
    assert "the disk is full" in complaint(done.stderr)
    assert done.stdout.split() == ["code", "2", "code", "0", "same"], done
