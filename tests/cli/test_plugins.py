"""`--import`: the user's code is run before options are read, and what is wrong with it is one sentence."""

import sys

import pytest

from d2o.cli.main import run
from d2o.cli.plugins import split_imports
from d2o.training import recipes

RECIPE = """
from dataclasses import replace
from d2o.training.recipes import D2O, RECIPES
from beside import SEED

RECIPES["mine"] = replace(D2O, seed=SEED)
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Return a folder with a user's file and what it imports."""
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.py").write_text(RECIPE)
    (tmp_path / "beside.py").write_text("SEED = 11")
    yield tmp_path
    recipes.RECIPES.pop("mine", None)
    sys.modules.pop("beside", None)


@pytest.mark.parametrize(
    "line", ["--import mine.py recipes mine", "recipes --import={}/mine.py mine", "recipes mine --import ./mine.py"]
)
def test_a_file_adds_to_the_tables_before_options_are_read(folder, capsys, line):
    assert run(line.format(folder).split()) == 0
    assert "seed: 11" in capsys.readouterr().out


def test_a_module_is_found_where_python_finds_it(folder, capsys, monkeypatch):
    assert run(["--import", "mine", "recipes", "mine"]) == 2
    assert "mine.py" in capsys.readouterr().err, "the file beside is the remedy"
    monkeypatch.syspath_prepend(folder)
    assert run(["--import", "mine", "recipes", "mine"]) == 0


def test_every_option_is_taken_out():
    words = ["--import", "a.py", "sample", "x", "--import=b", "--out", "c"]
    assert split_imports(words) == (["a.py", "b"], ["sample", "x", "--out", "c"])


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("x = 1\nx = x +\n", "line 2: SyntaxError"),
        ("def f():\n    raise RuntimeError('no such layer')\n\nf()\n", "line 2: RuntimeError: no such layer"),
        ("import nowhere_at_all\n", "line 1: ModuleNotFoundError"),
        ("import sys\nsys.exit(3)\n", "line 2: SystemExit"),
    ],
)
def test_an_error_in_the_users_file_is_one_sentence_with_its_place(folder, capsys, text, place):
    (folder / "broken.py").write_text(text)
    assert run(["recipes", "--import", "broken.py"]) == 2
    (sentence,) = capsys.readouterr().err.splitlines()
    assert str(folder / "broken.py") in sentence and place in sentence


@pytest.mark.parametrize(
    ("words", "remedy"),
    [(["--import", "nowhere.py"], "nowhere.py"), (["--import", "nowhere"], "PYTHONPATH"), (["--import"], "mine.py")],
)
def test_what_is_not_there_is_named(capsys, words, remedy):
    assert run(["recipes", *words]) == 2
    (sentence,) = capsys.readouterr().err.splitlines()
    assert "--import" in sentence and remedy in sentence
