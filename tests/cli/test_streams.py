"""Closed, full and abandoned streams: commands do their work, and their exit code says whether it was delivered."""

import subprocess
import sys
from pathlib import Path

import pytest

import d2o
from conftest import make_denoiser

D2O = f"{sys.executable} -m d2o"
TINY = "'backbone={kind: song_unet, channels: 8, channel_multipliers: [1], num_blocks: 1}'"
ENDINGS = {  # how the streams end: the exit code of a command that prints
    ">/dev/full": 2,
    ">&-": 2,
    "2>/dev/full": 0,
    "2>&-": 0,
    "<&- >&- 2>&-": 2,
    "| (exec <&-; sleep 9)": 141,
    "2>&1 >/dev/null | (exec <&-; sleep 9)": 0,
}
FULL = (">/dev/full", "| (exec <&-; sleep 9)")
"""Endings that are noticed while much is printed, and, of what the buffer holds, at the end."""

pytestmark = pytest.mark.skipif(not Path("/dev/full").exists(), reason="a device that is always full")


def shell(command: str, ending: str, folder: Path) -> tuple[int, str]:
    """Return the exit code of a command in a shell, and what it said on standard error."""
    script = f"{command} {ending}; exit ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", script], cwd=folder, capture_output=True, text=True, timeout=120)
    assert "Traceback" not in done.stderr and "Exception ignored" not in done.stderr
    return done.returncode, done.stderr


@pytest.mark.parametrize(
    ("words", "ending"), [*(("--help", ending) for ending in ENDINGS), *(("recipes --json", ending) for ending in FULL)]
)
def test_what_is_printed_is_delivered_or_the_exit_code_says_so(words, ending, tmp_path):
    code, said = shell(f"{D2O} {words}", ending, tmp_path)
    assert code == ENDINGS[ending]
    if code == 2 and "2>" not in ending:
        assert "standard output" in said


@pytest.mark.parametrize("ending", ["2>/dev/full", "2>&1 | head -c 1", "<&- >&- 2>&-"])
def test_a_run_goes_on_to_its_end(ending, tmp_path, tiny_data):
    words = f"pretrain --data {tiny_data} --images 16 --batch 8 --out run --evaluate-every 16 --evaluate-images 8"
    code, _ = shell(f"{D2O} {words} --sample-every 16 --features pixels --set {TINY}", ending, tmp_path)
    assert code == 0
    assert d2o.load(tmp_path / "run/ema.safetensors").num_classes == 2


def test_files_of_ours_never_become_a_closed_stream(tmp_path):
    d2o.save(tmp_path / "model.safetensors", make_denoiser(classes=2))
    before = (tmp_path / "model.safetensors").read_bytes()
    code, _ = shell(f"{D2O} sample model.safetensors --out grid.png", "<&- >&- 2>&-", tmp_path)
    assert code == 0 and (tmp_path / "grid.png").read_bytes().startswith(b"\x89PNG")
    assert (tmp_path / "model.safetensors").read_bytes() == before


@pytest.mark.parametrize("words", ["--help", "finetune --help", "recipes"])
def test_a_reader_who_has_seen_enough_is_no_error(words, tmp_path):
    code, said = shell(f"{D2O} {words}", "| head -1", tmp_path)
    assert code in (0, 141) and said == ""
