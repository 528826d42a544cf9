"""For machines: completion of what is typed, JSON of what was done, and logs without control characters."""

import functools
import gc
import io
import json
import shlex
import shutil
import subprocess
import sys
from types import SimpleNamespace

import pytest
import yaml

import d2o
from conftest import make_denoiser
from d2o.cli import progress as terminal
from d2o.cli.commands.completion import script
from d2o.cli.main import COMMANDS, run
from d2o.training.recipes import RECIPES

TYPED = {  # what is typed before the key is pressed -> all that is offered; None: names of files
    "d2o fin": {"finetune"},
    "d2o finetune --re": {"--recipe", "--resize", "--resolution"},
    "d2o finetune --from x --recipe digits-d2o": {name for name in RECIPES if name.startswith("digits-d2o")},
    "d2o finetune --recipe mine": None,
    "d2o finetune --from ": None,
    "d2o finetune --precision ": {"auto", "bfloat16", "float32"},
    "d2o export x --to ": {"safetensors", "delta", "diffusers", "onnx", "torch", "web"},
    "d2o sample runs": None,
    "d2o recipes dit-d2o-f": {name for name in RECIPES if name.startswith("dit-d2o-f")},
    "d2o app digits": {"digits-small", "digits-teacher"},
    "d2o analyze spectrum --samp": {"--sampler"},
    "d2o sample x --device c": {"cpu", "cuda"},
}
ASK = {  # how each shell is asked for what it would offer
    "bash": """
source d2o.bash
try() {
    COMP_WORDS=("$@"); COMP_CWORD=$((${#COMP_WORDS[@]} - 1)); COMPREPLY=(FILES); _tyro_d2o
    echo "${COMPREPLY[*]:-FILES}" | tr '\\n' ' '; echo
}
""",
    "zsh": """
_describe() { print -r -- ${(P)2%%:*} }
_files() { print FILES }
compdef() { }
source d2o.zsh > /dev/null
try() { words=("$@"); CURRENT=$#words; _tyro_d2o }
""",
    "fish": """
source d2o.fish
function __fish_complete_path; echo "$argv"FILES; end  # fish leaves out what does not begin as the word does
function try; echo (complete -C "$argv" | string replace -r '\\t.*' '' | string replace -r '.*FILES$' FILES); end
""",
}

printed = functools.cache(script)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    file = tmp_path_factory.mktemp("models") / "model.safetensors"
    d2o.save(file, make_denoiser(classes=2))
    return str(file)


class TestCompletion:
    @pytest.mark.parametrize("shell", ASK)
    def test_it_offers_commands_options_values_and_files(self, tmp_path, shell):
        if shutil.which(shell) is None:
            pytest.skip(f"{shell} is not installed")
        (tmp_path / f"d2o.{shell}").write_text(printed(shell))
        lines = [f"try {repr(typed) if shell == 'fish' else shlex.join(typed.split(' '))}" for typed in TYPED]
        (tmp_path / "ask").write_text(ASK[shell] + "\n".join(lines))
        answer = subprocess.run([shell, "ask"], cwd=tmp_path, capture_output=True, text=True, timeout=60)
        found = {typed: set(line.split()) for typed, line in zip(TYPED, answer.stdout.splitlines(), strict=True)}
        assert found == {typed: offered or {"FILES"} for typed, offered in TYPED.items()}, answer.stderr

    def test_every_command_is_in_it(self):
        assert all(f"'{name}': " in printed("zsh") for name in COMMANDS)
        assert "-o bashdefault -o default" in printed("bash"), "where nothing of ours fits, files are completed"

    def test_another_shell_is_refused(self):
        with pytest.raises(SystemExit, match="2"):
            run(["completion", "tcsh"])


class TestJson:
    def test_sample_tells_what_it_made(self, tmp_path, model, capsys):
        out = str(tmp_path / "a.npz")
        assert run(["sample", model, "--seeds", "0-4", "--out", out, "--json"]) == 0
        record = json.loads(capsys.readouterr().out)
        assert record["path"] == out and record["images"] == 5 and record["steps"] == 1

    def test_recipes_are_those_of_yaml(self, capsys):
        assert run(["recipes", "--json"]) == 0
        every = json.loads(capsys.readouterr().out)
        assert list(every) == list(RECIPES)
        run(["recipes", "d2o-f", "--json"])
        assert json.loads(capsys.readouterr().out) == every["d2o-f"]
        run(["recipes", "d2o-f"])
        assert yaml.safe_load(capsys.readouterr().out) == every["d2o-f"]

    def test_convert_and_export_tell_what_they_wrote(self, tmp_path, model, capsys):
        assert run(["convert", model, str(tmp_path / "b.safetensors"), "--json"]) == 0
        assert json.loads(capsys.readouterr().out)["parameters"] == sum(
            p.numel() for p in make_denoiser(classes=2).parameters()
        )
        assert run(["export", model, str(tmp_path / "c.safetensors"), "--to", "safetensors", "--json"]) == 0
        record = json.loads(capsys.readouterr().out)
        assert record["error"] < 1e-6 and record["path"].endswith("c.safetensors") and record["notes"]

    def test_training_tells_how_it_ended_and_is_tracked(self, tmp_path, tiny_data, capsys):
        tiny = "backbone={kind: song_unet, channels: 8, channel_multipliers: [1], num_blocks: 1}"
        words = [
            "pretrain",
            "--data",
            str(tiny_data),
            "--images",
            "16",
            "--batch",
            "8",
            "--labels",
            "none",
            "--set",
            tiny,
        ]
        words += ["--out", str(tmp_path / "run"), "--json"]
        pytest.importorskip("tensorboard")
        assert run([*words, "--track", "tensorboard"]) == 0
        record = json.loads(capsys.readouterr().out)
        assert record["images"] == 16 and record["moved_parameters"] == record["parameters"] > 0
        assert list((tmp_path / "run/tensorboard").glob("events.*"))
        assert json.loads((tmp_path / "run/tracked.json").read_text())["tensorboard"]["images"] == 16
        assert run(words) == 0, "tracking is no part of what a run is"
        assert json.loads(capsys.readouterr().out)["images"] == 16


class TestLogs:
    @pytest.fixture
    def clock(self, monkeypatch):
        clock = SimpleNamespace(now=0.0)
        monkeypatch.setattr(terminal.time, "monotonic", lambda: clock.now)
        return clock

    def test_long_sampling_tells_where_it_stands_in_plain_lines(self, clock, capsys):
        for batch in terminal.counted([[0] * 10] * 4, 40, "grid.png"):
            assert len(batch) == 10
            clock.now += 6
        assert capsys.readouterr().err == "grid.png: 20 of 40 images, 2/s, 0:12 left\n"

    def test_what_was_remembered_does_not_spoil_the_time_left(self, clock, capsys):
        for trial in terminal.counted(range(100), 100, "part by part", "trials"):
            clock.now += 0 if trial < 60 else 30
        last = capsys.readouterr().err.splitlines()[-1]
        assert last == "part by part: 99 of 100 trials, 30.0 s each, 0:30 left"

    def test_on_a_terminal_lines_within_lines_share_one_display(self, clock, monkeypatch):
        class Terminal(io.StringIO):
            def isatty(self) -> bool:
                return True

        monkeypatch.setenv("TERM", "xterm")
        monkeypatch.setattr(sys, "stderr", Terminal())
        shown = []
        for _ in terminal.counted("ab", 2, "trials", "trials"):
            for _ in terminal.counted([[0] * 8] * 3, 24, "images of one"):
                shown.append([task.fields["status"] for task in terminal.bars[0].tasks])
                clock.now += 2
        assert shown[2] == ["16 of 24 images, 4/s, 0:02 left"]
        assert shown[5] == ["1 of 2 trials, 6.0 s each, 0:06 left", "16 of 24 images, 4/s, 0:02 left"]
        assert not terminal.bars

    def test_a_pass_that_is_broken_off_closes_its_display(self, clock, monkeypatch):
        monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
        with pytest.raises(KeyError):
            for _ in terminal.counted(range(3), 3, "trials", "trials"):
                clock.now += 2
                raise KeyError
        gc.collect()
        assert not terminal.bars

    def test_a_log_file_gets_no_control_characters(self, tmp_path, tiny_data, capfd):
        tiny = "backbone={kind: song_unet, channels: 8, channel_multipliers: [1], num_blocks: 1}"
        words = [
            "pretrain",
            "--data",
            tiny_data,
            "--images",
            "16",
            "--batch",
            "8",
            "--set",
            tiny,
            "--out",
            tmp_path / "run",
        ]
        assert run(list(map(str, words))) == 0
        told = capfd.readouterr()
        assert told.out == "" and "16 of 16 images" in told.err and not set(told.err) & {"\r", "\x1b", "\b"}
