"""A teacher, and runs of the command line that ended, or stopped half way."""

import signal

import pytest

import d2o
from d2o.cli.main import run
from d2o.training import run as runs

from .command import arguments


@pytest.fixture(scope="session")
def teacher(tmp_path_factory, tiny_denoiser):
    file = tmp_path_factory.mktemp("teacher") / "teacher.safetensors"
    d2o.save(file, tiny_denoiser(classes=2))
    return file


@pytest.fixture(scope="session")
def finished(tmp_path_factory, teacher, tiny_data):
    """Return the directory of a run that nothing disturbed."""
    out = tmp_path_factory.mktemp("runs") / "finished"
    assert run(arguments(teacher, tiny_data, out)) == 0
    return out


@pytest.fixture(scope="session")
def stopped(tmp_path_factory, teacher, tiny_data):
    """Return the directory of a run that was stopped half way, at 120 images."""
    out = tmp_path_factory.mktemp("runs") / "stopped"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(runs, "draw_samples", lambda *_: signal.raise_signal(signal.SIGTERM))
        assert run(arguments(teacher, tiny_data, out)) == 130
    return out
