"""The command line: help with examples, one sentence and exit code 2 for wrong input, nothing slow before it."""

import contextlib
import io
import json
import subprocess
import sys

import numpy as np
import pytest
import yaml

import d2o
from d2o.cli.commands.recipes import GROUPS, row, rows
from d2o.cli.main import COMMANDS, run
from d2o.training.recipe import from_dict
from d2o.training.recipes import RECIPES, STAGES


def exit_code(words):
    """Run a command in this process; the reader of options exits by itself when they are wrong."""
    try:
        return run([str(word) for word in words])
    except SystemExit as stop:
        return stop.code or 0


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    from conftest import make_denoiser

    file = tmp_path_factory.mktemp("models") / "model.safetensors"
    d2o.save(file, make_denoiser(classes=2))
    return file


class TestHelp:
    @pytest.mark.parametrize("name", COMMANDS)
    def test_every_command_shows_two_examples(self, name):
        with contextlib.redirect_stdout(io.StringIO()) as output:
            assert exit_code([name, "--help"]) == 0
        text = output.getvalue()
        assert "examples:" in text and text.count(f"d2o {name}") >= 3  # the usage line and two examples

    @pytest.mark.parametrize("words", [[], ["-h"], ["--help"], ["help"]])
    def test_the_overview_names_every_command(self, words, capsys):
        assert run(words) == 0
        text = capsys.readouterr().out
        assert all(f"  {name} " in text for name in COMMANDS) and "examples:" in text

    def test_the_version(self, capsys):
        assert run(["--version"]) == 0
        assert capsys.readouterr().out == f"d2o {d2o.__version__}\n"

    @pytest.mark.parametrize(("typed", "meant"), [("finetun", "finetune"), ("samples", "sample"), ("Demo", "demo")])
    def test_an_unknown_command_names_the_nearest(self, typed, meant, capsys):
        assert run([typed]) == 2
        assert f"did you mean {meant}?" in capsys.readouterr().err

    def test_a_word_that_is_like_none_points_to_the_overview(self, capsys):
        assert run(["xyzzy"]) == 2
        assert "see d2o --help" in capsys.readouterr().err


@pytest.mark.parametrize("words", ["import d2o", "from d2o.cli.main import run; run(['--help'])"])
def test_nothing_heavy_is_imported_before_it_is_used(words):
    program = f"{words}; import sys; print([m for m in ('torch', 'numpy', 'tyro', 'timm') if m in sys.modules])"
    answer = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert answer.stdout.splitlines()[-1] == "[]"


WRONG = {
    "missing data": ("finetune --from MODEL --data nowhere.zip --out OUT", "nowhere.zip"),
    "missing model": ("finetune --from nothing.safetensors --data DATA --out OUT", "nothing.safetensors"),
    "a model that is none": ("finetune --from DATA --data DATA --out OUT", "tiny.npz"),
    "unknown recipe": ("finetune --from MODEL --data DATA --out OUT --recipe d2o-g", "d2o-f"),
    "missing recipe file": ("finetune --from MODEL --data DATA --out OUT --recipe my.yaml", "my.yaml"),
    "unknown key": ("finetune --from MODEL --data DATA --out OUT --set objectives.0.r=1", "r2"),
    "no value": ("finetune --from MODEL --data DATA --out OUT --set seed", "KEY=VALUE"),
    "bad value": ("finetune --from MODEL --data DATA --out OUT --set learning_rate=fast", "learning_rate"),
    "negative batch": ("finetune --from MODEL --data DATA --out OUT --batch -8", "batch_size"),
    "no images": ("finetune --from MODEL --data DATA --out OUT --images 0", "duration"),
    "unknown role": ("finetune --from MODEL --data DATA --out OUT --set frozen=[convolutoin]", "convolution"),
    "nothing of that resolution": ("finetune --from MODEL --data DATA --out OUT --set frozen=[resolution:64]", "has 8"),
    "no rule": ("finetune --from MODEL --data DATA --out OUT --set frozen=[colour:red]", "all-but:"),
    "steps that are not halved": (
        "finetune --from MODEL --data DATA --out OUT --recipe pd --set objectives.0.steps=12",
        "use 8 or 16",
    ),
    "lpips without weights": (
        "finetune --from MODEL --data DATA --out OUT --recipe cd --set objectives.0.distance=lpips",
        "weights of vgg16",
    ),
    "a distance that is none": (
        "finetune --from MODEL --data DATA --out OUT --recipe cd --set objectives.0.distance=l3",
        "pseudo-huber",
    ),
    "a teacher's recipe without a teacher": ("pretrain --data DATA --out OUT --recipe cd", "d2o finetune --from MODEL"),
    "too few pixels to judge": (
        "finetune --from MODEL --data DATA --out OUT --recipe d2o-perceptual --set discriminator.size=8",
        "size=32",
    ),
    "a discriminator that is none": (
        "finetune --from MODEL --data DATA --out OUT --set discriminator.kind=stylegan3",
        "stylegan2",
    ),
    "middle sigmas that rise": (
        "finetune --from MODEL --data DATA --out OUT --set objectives.0.middle_sigmas=[1,2]",
        "must fall",
    ),
    "a base that is not needed": ("sample MODEL --base MODEL --out OUT.png", "leave it out"),
    "a delta without a base": ("export MODEL OUT.safetensors --to delta", "needs the base"),
    "classes without labels": ("finetune --from MODEL --data DATA --out OUT --labels none", "leave --labels none out"),
    "three channels": ("finetune --from MODEL --data DATA --out OUT --channels 3", "--channels 1"),
    "another size": ("finetune --from MODEL --data DATA --out OUT --resolution 16 --resize area", "--resolution 8"),
    "size without resize": ("finetune --from MODEL --data DATA --out OUT --resolution 16", "resize"),
    "out is a file": ("finetune --from MODEL --data DATA --out DATA", "is a file: choose a directory"),
    "out below a file": ("finetune --from MODEL --data DATA --out DATA/run", "tiny.npz"),
    "pretraining of a recipe that begins with a model": ("pretrain --data DATA --out OUT --recipe d2o-f", "--from"),
    "unknown backbone": ("pretrain --data DATA --out OUT --backbone smal", "small"),
    "negative pretraining": ("pretrain --data DATA --out OUT --images -5", "duration"),
    "seeds that are none": ("sample MODEL --seeds a-z --out OUT.png", "a-z"),
    "seeds backwards": ("sample MODEL --seeds 9-1 --out OUT.png", "backwards"),
    "a class too many": ("sample MODEL --class 2 --out OUT.png", "0 to 1"),
    "no steps": ("sample MODEL --steps 0 --out OUT.png", "at least one step"),
    "an empty batch": ("sample MODEL --batch 0 --out OUT.png", "at least one image"),
    "images of no kind": ("sample MODEL --out OUT.gif", ".png"),
    "images below a file": ("sample MODEL --seeds 0 --out DATA/grid.png", "tiny.npz is a file"),
    "a device that is none": ("sample MODEL --seeds 0 --device tpu9 --out OUT.png", "tpu9"),
    "unknown recipe to show": ("recipes cifar", "cifar10"),
    "missing side": ("evaluate nothing.safetensors DATA", "nothing.safetensors"),
    "a page of no model": ("app nothing.safetensors", "nothing.safetensors"),
    "a teacher of other images": ("app MODEL --teacher digits-teacher", "digits-teacher cannot be the teacher of"),
    "runs that are nowhere": ("app --runs nowhere", "--runs"),
    "a setting that is not closed": (
        "finetune --from MODEL --data DATA --out OUT --set frozen=[convolution",
        "--set frozen=[convolution",
    ),
    "a setting that is no day": ("finetune --from MODEL --data DATA --out OUT --set seed=2001-13-45", "2001-13-45"),
    "a command that went": ("bench --threads 0", "benchmarks/"),
    "guidance of no number": ("sample MODEL --guidance nan --out OUT.png", "guidance"),
    "an import that is nowhere": ("sample MODEL --import nowhere.py --out OUT.png", "nowhere.py"),
    "unknown features": ("evaluate DATA DATA --features lite3", "lite2"),
}


@pytest.mark.parametrize(("line", "hint"), WRONG.values(), ids=WRONG)
def test_wrong_input_is_one_sentence_and_exit_code_2(tmp_path, model, tiny_data, capsys, line, hint):
    places = {"MODEL": str(model), "DATA": str(tiny_data), "OUT": str(tmp_path / "out")}
    for name, place in places.items():
        line = line.replace(name, place)
    assert exit_code(line.split()) == 2
    complaint = [row for row in capsys.readouterr().err.splitlines() if row.startswith("d2o: ")]
    assert len(complaint) == 1 and hint.lower() in complaint[0].lower()
    assert not list(tmp_path.iterdir()), "nothing is left behind"


def test_a_broken_recipe_file_is_named(tmp_path, model, tiny_data, capsys):
    for name, text in {"a.yaml": "{", "b.json": "[1]", "c.yaml": "objectives: 3", "d.yaml": "\x00"}.items():
        (tmp_path / name).write_text(text)
        words = ["finetune", "--from", model, "--data", tiny_data, "--out", tmp_path / "out"]
        assert exit_code([*words, "--recipe", tmp_path / name]) == 2, name
        assert capsys.readouterr().err.count("d2o: ") == 1


@pytest.mark.parametrize("line", ["sample", "sample model --out", "finetune --bach 3", "recipes a b"])
def test_options_that_are_wrong_exit_with_2_and_no_traceback(line, capsys):
    assert exit_code(line.split()) == 2
    text = capsys.readouterr()
    assert "Traceback" not in text.out + text.err


@pytest.mark.parametrize("error", [RuntimeError("DefaultCPUAllocator: can't allocate memory"), MemoryError()])
def test_memory_that_is_used_up_is_one_sentence(monkeypatch, capsys, error):
    def greedy(_):
        raise error

    monkeypatch.setattr("d2o.cli.commands.recipes.main", greedy)
    assert run(["recipes"]) == 2
    assert "--micro-batch" in capsys.readouterr().err
    error = KeyError("a mistake of ours")
    with pytest.raises(KeyError):
        run(["recipes"])


def test_a_traceback_can_be_asked_for(monkeypatch):
    monkeypatch.setenv("D2O_TRACEBACK", "1")
    with pytest.raises(ValueError, match="no recipe"):
        run(["recipes", "nothing"])


class TestSample:
    def test_images_of_the_seeds_and_classes_asked_for(self, tmp_path, model):
        out = tmp_path / "images.npz"
        assert exit_code(["sample", model, "--seeds", "3,5-6", "--steps", "2", "--out", out]) == 0
        arrays = np.load(out)
        assert arrays["images"].shape == (3, 8, 8, 1) and arrays["images"].dtype == np.uint8
        assert arrays["seeds"].tolist() == [3, 5, 6] and arrays["labels"].tolist() == [1, 1, 0]

    def test_the_batch_does_not_change_them(self, tmp_path, model):
        for batch in (1, 64):
            words = ["sample", model, "--seeds", "0-4", "--class", "1", "--batch", batch]
            assert exit_code([*words, "--out", tmp_path / f"{batch}.npz"]) == 0
        one, many = (np.load(tmp_path / f"{batch}.npz")["images"].astype(int) for batch in (1, 64))
        assert np.abs(one - many).max() <= 1

    def test_a_diffusion_model_in_one_step_is_explained(self, tmp_path, model, capsys):
        assert exit_code(["sample", model, "--seeds", "0", "--out", tmp_path / "a.png"]) == 0
        assert "--steps 18" in capsys.readouterr().err
        assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")

    @pytest.mark.parametrize(
        "extra", ["--sampler euler --steps 3", "--sampler renoise --middle-sigmas 0.8", "--churn 40"]
    )
    def test_the_other_samplers(self, tmp_path, model, extra):
        assert exit_code(["sample", model, "--seeds", "0-1", *extra.split(), "--out", tmp_path / "a.npz"]) == 0


class TestRecipes:
    def test_the_list_has_a_line_for_each(self, capsys):
        assert run(["recipes"]) == 0
        lines = capsys.readouterr().out.splitlines()
        listed = [line.split()[0] for line in lines if line.startswith("  ")]
        assert sorted(listed) == sorted([*RECIPES, *STAGES]) and all(len(line.split()) > 3 for line in lines)

    def test_every_recipe_says_what_it_is_for(self):
        assert all("; " in row(name, recipe) for name, recipe in {**RECIPES, **STAGES}.items())
        assert len(list(rows({**RECIPES, "mine": RECIPES["d2o"]}))) == len(RECIPES) + 1 + len(GROUPS) + 1

    @pytest.mark.parametrize("name", [*RECIPES, *STAGES])
    def test_what_is_shown_is_the_recipe_as_a_file(self, name, capsys):
        assert run(["recipes", name]) == 0
        assert from_dict(yaml.safe_load(capsys.readouterr().out)) == {**RECIPES, **STAGES}[name]


def test_pretrain_then_finetune_then_sample(tmp_path, tiny_data, capsys):
    """A user's whole way, with a recipe from a file and from another run."""
    teacher, student = tmp_path / "teacher", tmp_path / "student"
    common = ["--data", tiny_data, "--images", "16", "--batch", "8", "--labels", "none"]
    tiny = "backbone={kind: song_unet, channels: 8, channel_multipliers: [1], num_blocks: 1}"
    assert exit_code(["pretrain", *common, "--out", teacher, "--set", tiny, "--seed", "3"]) == 0
    assert "Next: d2o finetune" in capsys.readouterr().err
    run(["recipes", "digits-d2o-f"])
    file = tmp_path / "mine.yaml"
    file.write_text(capsys.readouterr().out)
    words = [f"--set=discriminator.{setting}" for setting in ("weights=random", "width=16")]
    assert exit_code(["finetune", "--from", teacher, *common, "--recipe", file, "--out", student, *words]) == 0
    assert exit_code(["sample", student, "--seeds", "0-3", "--out", tmp_path / "grid.png"]) == 0
    capsys.readouterr()
    again = ["finetune", "--from", teacher, *common, "--recipe", student / "recipe.json", "--out", tmp_path / "again"]
    assert exit_code(again) == 0
    assert (tmp_path / "again/ema.safetensors").read_bytes() == (student / "ema.safetensors").read_bytes()
    assert json.loads((teacher / "recipe.json").read_text())["recipe"]["seed"] == 3


@pytest.mark.parametrize(
    ("command", "old", "new"),
    [
        ("finetune", "from", "teacher"),
        ("estimate", "from", "teacher"),
        ("demo", "from", "teacher"),
        ("encode", "batch-size", "batch"),
        ("analyze blocks", "after", "student"),
        ("analyze minima", "count", "images"),
        ("evaluate", "images", "count"),
        ("statistics", "images", "count"),
    ],
)
def test_options_are_called_alike_and_by_their_old_names(command, old, new, capsys):
    with pytest.raises(SystemExit):
        run([*command.split(), "--help"])
    lines = [set(line.replace(",", " ").split()) for line in capsys.readouterr().out.splitlines()]
    assert any({f"--{old}", f"--{new}"} <= line for line in lines)
