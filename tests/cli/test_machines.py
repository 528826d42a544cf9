"""For machines: completion of what is typed, JSON of what was done, and logs without control characters."""

import json
import os
import shutil
import subprocess
import sys

import pytest
import yaml

import d2o
from conftest import make_denoiser
from d2o.cli import terminal
from d2o.cli.completion import script
from d2o.cli.main import COMMANDS, run
from d2o.training.recipes import RECIPES

TRY = """
source d2o.bash
PATH=%s:$PATH
try() { COMP_WORDS=("$@"); COMP_CWORD=$((${#COMP_WORDS[@]} - 1)); COMPREPLY=(); _tyro_d2o; echo "${COMPREPLY[*]}"; }
try d2o ""
try d2o fin
try d2o finetune --from x --rec
try d2o export x --to ""
complete -p d2o
"""


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    file = tmp_path_factory.mktemp("models") / "model.safetensors"
    d2o.save(file, make_denoiser(classes=2))
    return str(file)


class TestCompletion:
    @pytest.mark.skipif(shutil.which("bash") is None, reason="bash is not installed")
    def test_bash_completes_commands_options_and_choices(self, tmp_path):
        (tmp_path / "d2o.bash").write_text(script("bash"))
        bin_folder = os.path.dirname(sys.executable)  # noqa: PTH120
        answer = subprocess.run(
            ["bash", "-c", TRY % bin_folder], cwd=tmp_path, capture_output=True, text=True, timeout=60
        )
        commands, one, option, choices, registered = answer.stdout.splitlines()
        assert set(COMMANDS) <= set(commands.split())
        assert one == "finetune" and option == "--recipe"
        assert choices.split() == ["safetensors", "delta", "diffusers", "onnx", "torch", "web"]
        assert "-o default" in registered, "where nothing of ours fits, files are completed"

    def test_zsh_gets_a_script_with_all_commands(self):
        text = script("zsh")
        assert text.startswith("#compdef d2o") and all(name in text for name in COMMANDS)

    def test_another_shell_is_refused(self):
        with pytest.raises(SystemExit, match="2"):
            run(["completion", "fish"])


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
    def test_long_sampling_tells_where_it_stands_in_plain_lines(self, monkeypatch, capsys):
        clock = iter(range(0, 1000, 6))
        monkeypatch.setattr(terminal.time, "monotonic", lambda: next(clock))
        assert [len(batch) for batch in terminal.counted([[0] * 10] * 4, 40, "grid.png")] == [10] * 4
        lines = capsys.readouterr().err
        assert lines == "grid.png: 20 of 40 images, 2/s, 0:12 left\n"

    def test_a_log_file_gets_no_control_characters(self, tmp_path, tiny_data):
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
        answer = subprocess.run([sys.executable, "-m", "d2o", *map(str, words)], capture_output=True, timeout=120)
        assert answer.returncode == 0 and answer.stdout == b""
        assert b"16 of 16 images" in answer.stderr and not set(answer.stderr) & {0x0D, 0x1B, 0x08}
