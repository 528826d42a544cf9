"""For machines: completion, JSON of what was done, and logs without control characters."""

import gc
import io
import json
import shutil
import subprocess
import sys
from types import SimpleNamespace

import pytest
import yaml

import d2o
from conftest import make_denoiser
from d2o.cli import progress as terminal
from d2o.cli.main import COMMANDS, run
from d2o.training.recipes import RECIPES, STAGES


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    file = tmp_path_factory.mktemp("models") / "model.safetensors"
    d2o.save(file, make_denoiser(classes=2))
    return str(file)


class TestCompletion:
    @pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
    def test_the_option_parser_prints_it_for_every_command(self, shell, capsys):
        with pytest.raises(SystemExit):
            run(["--tyro-print-completion", shell])
        text = capsys.readouterr().out
        assert all(name in text for name in COMMANDS) and "--evaluate-every" in text and "--student" in text

    @pytest.mark.skipif(shutil.which("bash") is None, reason="bash is not installed")
    def test_bash_completes_commands_and_options(self, tmp_path, capsys):
        with pytest.raises(SystemExit):
            run(["--tyro-print-completion", "bash"])
        (tmp_path / "d2o.bash").write_text(capsys.readouterr().out)
        script = "source d2o.bash; COMP_WORDS=(d2o {}); COMP_CWORD={}; _tyro_d2o; echo ${{COMPREPLY[*]}}"
        for typed, place, offered in (("fin", 1, "finetune"), ("finetune --re", 2, "--recipe")):
            command = ["bash", "-c", script.format(typed, place)]
            answer = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60)
            assert offered in answer.stdout, answer.stderr

    def test_the_command_that_printed_it_names_what_took_its_place(self, capsys):
        assert run(["completion", "bash"]) == 2
        assert "--tyro-print-completion" in capsys.readouterr().err


class TestJson:
    def test_sample_tells_what_it_made(self, tmp_path, model, capsys):
        out = str(tmp_path / "a.npz")
        assert run(["sample", model, "--seeds", "0-4", "--out", out, "--json"]) == 0
        record = json.loads(capsys.readouterr().out)
        assert record["path"] == out and record["images"] == 5 and record["steps"] == 1

    def test_recipes_are_those_of_yaml(self, capsys):
        assert run(["recipes", "--json"]) == 0
        every = json.loads(capsys.readouterr().out)
        assert list(every) == [*RECIPES, *STAGES]
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

    def test_long_sampling_prints_where_it_stands_in_plain_lines(self, clock, capsys):
        for batch in terminal.counted([[0] * 10] * 5, 50, "grid.png"):
            assert len(batch) == 10
            clock.now += 6
        lines = capsys.readouterr().err.splitlines()
        assert [line.partition(",")[0] for line in lines] == [f"grid.png: {done} of 50 images" for done in (20, 40)]
        assert lines[0].endswith("2/s, 0:00:18 left") and lines[1].endswith("2/s, 0:00:06 left")

    def test_what_was_measured_earlier_does_not_spoil_the_time_left(self, clock, capsys):
        for trial in terminal.counted(range(100), 100, "part by part", "trials"):
            clock.now += 0 if trial < 60 else 30
        last = capsys.readouterr().err.splitlines()[-1]
        assert "99 of 100 trials" in last and "30.0 s each" in last and "0:00:30 left" in last

    def test_on_a_terminal_passes_within_passes_share_one_display(self, clock, monkeypatch):
        class Terminal(io.StringIO):
            def isatty(self) -> bool:
                return True

        monkeypatch.setenv("TERM", "xterm")
        monkeypatch.setattr(sys, "stderr", Terminal())
        shown = []
        for _ in terminal.counted("ab", 2, "trials", "trials"):
            for _ in terminal.counted([[0] * 8] * 3, 24, "images of one"):
                shown.append([task.fields["status"] for task in terminal.display.tasks] if terminal.display else [])
                clock.now += 2
        assert [len(rows) for rows in shown] == [0, 1, 1, 1, 2, 2]
        assert shown[2][0].startswith("16 of 24 images") and shown[5][0].startswith("1 of 2 trials")
        assert terminal.display is None

    def test_a_pass_that_is_broken_off_closes_its_display(self, clock, monkeypatch):
        monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
        with pytest.raises(KeyError):
            for place in terminal.counted(range(3), 3, "trials", "trials"):
                clock.now += 2
                if place == 1:
                    raise KeyError
        gc.collect()
        assert terminal.display is None

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
