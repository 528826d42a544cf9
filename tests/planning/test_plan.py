"""A plan keeps within the hours, says why, and prints commands that run as they stand; its page shows its table."""

import json
import math
import shlex
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from d2o.cli.main import run
from d2o.data.datasets import open_images
from d2o.planning import plan as planning
from d2o.planning.estimate import Estimate
from d2o.planning.plan import FEWEST, PASSES, RESERVE, plan
from d2o.planning.table import PUBLISHED_AT, TABLE, Look, Row, follow, look_at, rows_for

PAGE = Path(__file__).parents[2] / "docs/how-to/plan.md"
UNET = "backbone={kind: song_unet, channels: 8, channel_multipliers: [1], num_blocks: 1, attention_resolutions: []}"
TEXT = "backbone={kind: text_transformer, channels: 8, num_blocks: 1, num_heads: 2}"
TINY = {"shapes-pretrain": TEXT, "emoji-pretrain": UNET.replace("song_unet", "text_unet")}
"""Networks as those of recipes, but small; UNET for all others."""
SMALLER = ["--images", "8", "--batch", "4", "--sample-every", "8", "--precision", "float32"]
PROJECTED = ["--set=discriminator.weights=random", "--set=discriminator.width=16", "--set=discriminator.size=32"]
JUDGED = {"projected": PROJECTED, "emoji-d2o-f": ["--set=discriminator.width=16"]}


@pytest.fixture
def tried(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Let a trial find 10 images a second at 32x32, and more with fewer pixels; return the sides that were tried."""
    sides: list[int] = []

    def estimate(_name, recipe, model, **_how):
        sides.append(model.image_shape[1])
        rate = 10 * (32 / sides[-1]) ** 2
        return Estimate(rate, recipe.duration / rate / 3600, 1.0, 9.0, 0.1, 9.0, 2, recipe.batch_size, 0.8, 1000)

    monkeypatch.setattr(planning, "estimate", estimate)
    return sides


def save(folder: Path, count: int = 8, size: tuple[int, int] = (20, 20), mode: str = "RGB", classes: int = 2) -> Path:
    random = np.random.default_rng(0)
    for i in range(count):
        shape = (*reversed(size), *([] if mode == "L" else [len(mode)]))
        place = folder / f"kind {i % classes}" if classes else folder
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(random.integers(0, 256, shape, np.uint8)).save(place / f"{mode}-{size[0]}-{i}.png")
    return folder


def planned(folder: Path, hours: float, **options):
    return plan(look_at(str(folder)), lambda preparation: open_images(folder, **preparation), hours, "cpu", **options)


class TestTheTable:
    @pytest.mark.parametrize("kind", TABLE)
    def test_every_side_has_a_row_not_much_larger(self, kind):
        for side in range(1, 600):
            sides = [there for there, _ in rows_for(kind, side)]
            assert sides == sorted(sides, reverse=True)
            assert max(sides) <= 1.25 * side or sides == [min(TABLE[kind])]
            assert sides[-1] == min(TABLE[kind])

    def test_its_page_shows_its_rows_and_no_others(self):
        rows = [line for line in PAGE.read_text().splitlines() if line.startswith(("| pre-train", "| fine-tune"))]
        assert rows == lines_of_the_table()

    def test_its_page_shows_the_other_numbers(self):
        text, most = PAGE.read_text(), TABLE["cpu"][16].pretrain.images
        assert all(f"| {side} | `{name}` |" in text for side, name in PUBLISHED_AT.items())
        for count in (500, 5_000, 50_000, 1_000_000):
            seen = min(most, PASSES * count)
            assert f"| {count:,} | {seen:,} | {seen / count:g} |" in text


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("digits-pretrain", "digits-d2o-f"),
        ("cifar10-small-dit-pretrain", "cifar10-small-dit-d2o-f"),
        ("pretrain", "d2o-f"),
        ("digits-flow-pretrain", "d2o-f"),
        ("mine/pretrain.yaml", "d2o-f"),
    ],
)
def test_a_recipe_is_followed_by_that_of_its_data(before, after):
    assert follow(before).options == {**dict.fromkeys(follow(before).options), "recipe": after}


def lines_of_the_table() -> list[str]:
    places = {"cpu": "CPU", "gpu": "GPU", "captions": "captions", "shapes": "`shapes`"}
    rows: dict[tuple[str, int], Row] = {}
    for kind, table in TABLE.items():
        for side, row in table.items():
            rows["both" if row is TABLE["cpu"].get(side) is TABLE["gpu"].get(side) else places[kind], side] = row
    return [line for (where, side), row in rows.items() for line in two_lines(where, side, row)]


def two_lines(where: str, side: int, row: Row) -> list[str]:
    lines = []
    for verb, training in zip(("pre-train", "fine-tune"), (row.pretrain, row.finetune), strict=True):
        recipe = training.open()
        options = f"`{training.recipe}`" + (f", `--backbone {training.backbone}`" if training.backbone else "")
        numbers = f"{recipe.batch_size} | {recipe.learning_rate:g} | {recipe.duration:,}"
        lines.append(f"| {verb} | {where} | {side} | {options} | {numbers} |")
    return lines


class TestPreparation:
    @pytest.mark.parametrize(
        ("sizes", "kinds", "alpha", "side", "made"),
        [
            ({(16, 16)}, {"colour"}, False, 16, {}),
            ({(20, 20)}, {"colour"}, False, 16, {"resolution": 16, "resize": "area"}),
            ({(14, 14)}, {"grey"}, False, 16, {"resolution": 16, "resize": "bilinear"}),
            ({(20, 30)}, {"colour"}, False, 16, {"resolution": 16, "resize": "center-crop"}),
            ({(16, 16), (32, 32)}, {"colour"}, False, 16, {"resolution": 16, "resize": "center-crop"}),
            ({(16, 16)}, {"colour", "grey"}, False, 16, {"channels": 3}),
            ({(16, 16)}, {"CMYK"}, True, 16, {"channels": 3, "background": "white"}),
        ],
    )
    def test_of(self, sizes, kinds, alpha, side, made):
        assert Look(frozenset(sizes), frozenset(kinds), alpha).prepare(side) == made

    @pytest.mark.parametrize("channels", [1, 3])
    def test_opens_whatever_there_is(self, tmp_path, channels):
        for size, mode in (((20, 20), "RGB"), ((31, 17), "L"), ((9, 40), "RGBA")):
            save(tmp_path / "data", 2, size, mode)
        look = look_at(str(tmp_path / "data"))
        assert look is not None and look.side == 9
        assert open_images(tmp_path / "data", **look.prepare(8, channels)).shape == (channels, 8, 8)


class TestHours:
    @pytest.mark.parametrize("hours", [0.5, 1.4, 3.0, 5.0, 20.0, 100.0, 1000.0])
    def test_bound_the_images_and_choose_the_size(self, tmp_path, tried, hours):
        """At these rates 40 images, passed over 400 times, are 16,000: 0.44 hours of pre-training at 32x32."""
        made = planned(save(tmp_path / "data", 40, (100, 100)), hours)
        assert made.hours <= hours and made.memory_gib == 1.0
        full = made.row.finetune.images + min(made.row.pretrain.images, 400 * 40)
        assert sum(step.training.images for step in made.steps) <= full
        assert (hours * (1 - RESERVE) / made.hours > 1.3) == (made.share == 1)
        assert made.share >= FEWEST and made.steps[0].training.images >= 0.8 * made.share * 16_000

    def test_more_of_them_never_mean_smaller_images(self, tmp_path, tried):
        folder = save(tmp_path / "data", 40, (100, 100))
        sides = [planned(folder, hours).images.shape[1] for hours in (0.1, 0.2, 0.5, 1.0, 3.0, 100.0)]
        assert sides == sorted(sides) and sides[0] == 8 and sides[-1] == 32

    def test_too_few_of_them_are_refused_with_a_number_that_works(self, tmp_path, tried):
        folder = save(tmp_path / "data", 40)
        with pytest.raises(ValueError, match=r"--hours 0.001 is too short") as refusal:
            planned(folder, 0.001)
        enough = float(str(refusal.value).partition("give --hours ")[2].split()[0])
        assert planned(folder, enough).share == pytest.approx(FEWEST, abs=0.02)
        with pytest.raises(ValueError, match="too short"):
            planned(folder, 0.9 * enough)

    @pytest.mark.parametrize("hours", ["0", "-1", "nan", "inf"])
    def test_that_are_none_are_refused(self, hours, capsys):
        assert run(["plan", "--data", "digits", f"--hours={hours}"]) == 2
        assert "--hours" in capsys.readouterr().err


def test_eight_gpus_share_the_work(tmp_path, tried, monkeypatch, capsys):
    monkeypatch.chdir(save(tmp_path / "data", 8, (64, 64)).parent)
    monkeypatch.setattr(planning, "find_device", lambda _: torch.device("cuda"))
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 8)
    assert run(["plan", "--data", "data", "--hours", "1000", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert all(command.startswith("torchrun --nproc_per_node 8 -m d2o ") for command in found["commands"])
    assert all("--precision auto" in command for command in found["commands"])
    assert math.isclose(found["hours"], (3_200 / 2.5 + 10_000_000 / 2.5) / 8 / 3600, rel_tol=0.01)


@pytest.mark.parametrize("emulated", [True, False])
def test_recipes_in_bfloat16_are_tried_and_advised_in_float32_where_it_is_emulated(
    emulated, tmp_path, tried, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(planning, "warn_about_emulation", lambda name, _: emulated and name == "bfloat16")
    assert run(["plan", "--data", "emoji-smileys", "--hours", "1000", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert ["--precision float32" in command for command in found["commands"]] == [emulated, False]
    assert any("bfloat16" in reason for reason in found["reasons"]) == emulated


@pytest.mark.parametrize(
    ("data", "more", "expected"),
    [
        ("digits", [], ["--recipe digits-pretrain"]),
        ("colour", [], ["--resolution 16 --resize area", "--recipe cifar10-small-d2o-f-best"]),
        ("grey", ["--labels", "none", "--device", "cpu"], ["--labels none", "--device cpu"]),
        ("mixed", ["--resolution", "8"], ["--channels 3", "--resolution 8 --resize center-crop"]),
        ("shapes", [], ["--recipe shapes-d2o-f"]),
        ("emoji-smileys", [], ["--recipe emoji-pretrain", "--recipe emoji-d2o-f"]),
        ("emoji-smileys", ["--captions", "none"], ["--recipe cifar10-small-d2o-f-best"]),
        ("digits", ["--from", "digits-teacher"], ["--from digits-teacher"]),
        ("colour", ["--from", "digits-teacher", "--classes", "kind 0=3,kind 1=5"], ["--channels 1", "'kind 0=3"]),
    ],
)
def test_commands_run_as_they_stand(data, more, expected, tmp_path, tried, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    save(tmp_path / "colour")
    save(tmp_path / "grey", 8, (16, 16), "L")
    save(tmp_path / "mixed", 4, (20, 30), "L")
    save(tmp_path / "mixed", 4, (40, 40))
    assert run(["plan", "--data", data, *more, "--hours", "1000", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert {"commands", "hours", "memory", "reasons"} <= found.keys() and found["hours"] > 0 and found["reasons"]
    assert all(any(words in command for command in found["commands"]) for words in expected), found["commands"]
    assert len(found["commands"]) == (1 if "--from" in more else 2)
    told = any("captions" in reason for reason in found["reasons"])
    assert told == (data in ("shapes", "emoji-smileys") and "none" not in more)
    for command in found["commands"]:
        program, *words = shlex.split(command)
        name = words[words.index("--recipe") + 1]
        changed = {"finetune": JUDGED.get(name, JUDGED["projected"]), "pretrain": ["--set", TINY.get(name, UNET)]}
        smaller = SMALLER + changed[words[0]]
        assert program == "d2o" and run([*words, *smaller]) == 0, capsys.readouterr().err
    assert (tmp_path / shlex.split(found["commands"][-1])[-1] / "ema.safetensors").exists()


def test_trials_are_those_of_an_estimate(monkeypatch, tmp_path, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(planning, "SECONDS", 0.0)
    assert run(["plan", "--data", "digits", "--hours", "1000"]) == 0
    told = capsys.readouterr().out
    assert "264,145 parameters" in told and "46,000 images" in told and "hours" in told


@pytest.mark.parametrize(
    ("data", "model", "told"),
    [
        ("empty", None, "empty"),
        ("colour", "digits-teacher", "class"),
        ("colour", "shapes-teacher", "captions"),
        ("one", "digits-teacher", "labels"),
    ],
)
def test_what_cannot_be_trained_is_said_before_any_trial(data, model, told, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(planning, "estimate", None)
    (tmp_path / "empty").mkdir()
    save(tmp_path / "colour")
    save(tmp_path / "one", 1, classes=0)
    assert run(["plan", "--data", data, *(["--from", model] if model else [])]) == 2
    assert told in capsys.readouterr().err


def test_folders_that_are_there_are_not_taken_for_the_runs(tmp_path, tried, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs/digits-one-step").mkdir(parents=True)
    assert run(["plan", "--data", "digits", "--hours", "1000", "--json"]) == 0
    commands = json.loads(capsys.readouterr().out)["commands"]
    assert [shlex.split(command)[-1] for command in commands] == ["runs/digits-2", "runs/digits-2-one-step"]


def test_latents_without_room_are_not_tried(tried, monkeypatch, tiny_denoiser):
    training = TABLE["cpu"][8].finetune
    images = replace(open_images("digits"), shape=(3, 64, 64))
    monkeypatch.setattr(planning, "makes_latents", lambda _: True)
    monkeypatch.setattr(planning, "free_memory", lambda _: 10)
    step = planning.try_out(training, tiny_denoiser(), images, "cpu", 1)
    assert step.found is None and step.hours is None and step.memory_gib > 0 and not tried
