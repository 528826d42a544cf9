"""What the README promises is so."""

import re
from dataclasses import replace
from pathlib import Path

import pytest

import d2o
from d2o.cli import main

README = (Path(__file__).parent.parent / "README.md").read_text()


def test_program_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    """The README's program, with fewer images."""
    (program,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    monkeypatch.chdir(tmp_path)
    recipes = d2o.recipes
    short = replace(recipes.RECIPES["digits-pretrain"], duration=256)
    monkeypatch.setitem(recipes.RECIPES, "digits-pretrain", short)
    monkeypatch.setitem(recipes.DIGITS, "duration", 256)
    exec(compile(program, "README.md", "exec"), {})
    assert capsys.readouterr().out.count("'discriminator'") == 4
    assert d2o.load("one_step.safetensors").image_shape == (1, 8, 8)


def test_program_is_short() -> None:
    (program,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    assert sum(bool(line.strip()) for line in program.splitlines()) <= 15


def test_table_lists_the_commands() -> None:
    assert set(re.findall(r"^\| `d2o (\w+)", README, re.MULTILINE)) == set(main.COMMANDS)
