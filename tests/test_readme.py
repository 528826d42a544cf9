"""What the README promises is so."""

import re
from dataclasses import replace
from pathlib import Path

import pytest

import d2o
from d2o.cli import main

README = (Path(__file__).parent.parent / "README.md").read_text()


def test_program_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The README's program, with fewer images."""
    (program,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    monkeypatch.chdir(tmp_path)
    recipes = d2o.recipes
    for name in ("digits-pretrain", "digits-d2o-f"):
        monkeypatch.setitem(recipes.RECIPES, name, replace(recipes.RECIPES[name], duration=256))
    made: dict = {}
    exec(compile(program, "README.md", "exec"), made)
    assert made["images"].shape == (64, 1, 8, 8)
    assert d2o.load("one_step.safetensors").image_shape == (1, 8, 8)


def test_program_is_five_lines() -> None:
    (program,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    assert sum(bool(line.strip()) for line in program.splitlines()) <= 5


def test_the_table_of_commands_lists_them_all() -> None:
    table = (Path(__file__).parent.parent / "docs" / "command-line.md").read_text()
    assert set(re.findall(r"^\| `d2o (\w+)", table, re.MULTILINE)) == set(main.COMMANDS)
