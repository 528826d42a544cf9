"""Runs of several stages: their results, kills between and within stages, refusals, and images of the teacher."""

import json
import signal
from typing import Any, cast

import numpy as np
import pytest
import torch
from PIL import Image

import d2o
from d2o.checkpoints import native
from d2o.checkpoints.places import locate
from d2o.cli.main import run
from d2o.data.files import to_uint8
from d2o.discriminators import OwnFeatures
from d2o.metrics.counting import unshown
from d2o.objectives import Adversarial, Consistency
from d2o.training import fit, one_recipe, stages, teacher_images
from d2o.training import run as runs
from d2o.training.loop import group
from d2o.training.networks import networks
from d2o.training.opening import open_recipe
from d2o.training.recipe import Recipe, Stages, TeacherImages, change
from d2o.training.recipes import STAGES
from refusal import refused

from .command import JUDGE as ONE
from .command import complaint

JUDGE = [*ONE, "--set=discriminator.networks=[tf_efficientnet_lite0]"]

SKETCH = {"recipe": "cd", "objectives.0.distance": "squared", "objectives.0.steps": 3, "objectives.0.solver": "euler"}
SHORT = {"duration": 32, "batch_size": 8}
TEACHERS = {"kind": "teacher", "count": 20, "steps": 2, "guidance": 2.0}
WHAT = {
    "sketch": [{**SKETCH, **SHORT}, {"recipe": "d2o-f", **SHORT}],
    "teacher": [{"recipe": "d2o-f", **SHORT}, {"recipe": "d2o-f", **SHORT, "data": TEACHERS}],
}


@pytest.fixture(scope="module")
def words(teacher, tiny_data, tmp_path_factory):
    """Return the command of a run in stages, by their name."""

    def make(name, out, *more):
        file = tmp_path_factory.mktemp("recipes") / f"{name}.json"
        file.write_text(json.dumps(WHAT[name]))
        options = ["--from", teacher, "--data", tiny_data, "--recipe", file, "--out", out, "--save-every", 16]
        return ["finetune", *map(str, options), "--sample-every", "16", *JUDGE, *more]

    return make


@pytest.fixture(scope="module")
def whole(words, tmp_path_factory):
    """Return the directory of each run, which nothing disturbed."""
    out = tmp_path_factory.mktemp("whole")
    for name in WHAT:
        assert run(words(name, out / name)) == 0
    return out


def assert_same(out, expected):
    for file in ("ema.safetensors", "student.safetensors", "stage-1/ema.safetensors", "stage-2/ema.safetensors"):
        assert (out / file).read_bytes() == (expected / file).read_bytes(), file
    for stage in ("stage-1", "stage-2"):
        lines = [(place / stage / "metrics.jsonl").read_text().splitlines() for place in (out, expected)]
        assert len(lines[0]) == len(lines[1]) == 4


def test_the_last_stage_gives_the_results(whole, teacher, tmp_path):
    out = whole / "sketch"
    assert not locate(out).unfinished and json.loads((out / "recipe.json").read_text())["recipe"]["stages"]
    assert (out / "ema.safetensors").read_bytes() == (out / "stage-2/ema.safetensors").read_bytes()
    assert native.read_header(out / "checkpoint.safetensors")["images"] == 32
    assert run(["sample", str(out), "--seeds", "0-3", "--out", str(tmp_path / "grid.png")]) == 0
    start, sketch, final = (d2o.load(place) for place in (teacher, out / "stage-1", out))
    assert final.provenance["from"]["recipe"]["objectives"][0]["kind"] == "consistency"
    moved, role = ([], []), cast("Any", start.backbone).role
    for (name, a), b, c in zip(start.named_parameters(), sketch.parameters(), final.parameters(), strict=True):
        for found, pair in zip(moved, ((a, b), (b, c)), strict=True):
            found += [] if torch.equal(*pair) else [role(name.removeprefix("backbone."))]
    assert "convolution" in moved[0] and moved[1] and "convolution" not in moved[1]


@pytest.mark.parametrize("stage", [1, 2])
def test_a_run_that_is_stopped_within_a_stage_goes_on_to_the_same_bits(tmp_path, whole, words, monkeypatch, stage):
    out, draw = tmp_path / "run", runs.draw_samples

    def interrupt(directory, average, images, habits):
        draw(directory, average, images, habits)
        if directory.name == f"stage-{stage}" and images == 16:
            signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(runs, "draw_samples", interrupt)
    assert run(words("sketch", out)) == 130
    assert locate(out).unfinished and d2o.load(out).one_step
    monkeypatch.undo()
    assert run(words("sketch", out)) == 0
    assert_same(out, whole / "sketch")


def test_a_run_that_is_killed_between_stages_goes_on_and_repeats_nothing(tmp_path, whole, words, monkeypatch, capsys):
    out, make = tmp_path / "run", one_recipe.settle_precision

    def kill(*given):
        if given[-1].name == "stage-2":
            raise KeyboardInterrupt
        return make(*given)

    monkeypatch.setattr(one_recipe, "settle_precision", kill)
    assert run(words("sketch", out)) == 130
    assert torch.equal(*(next(d2o.load(place).parameters()) for place in (out, out / "stage-1")))
    monkeypatch.undo()
    times = {file: file.stat().st_mtime_ns for file in (out / "stage-1").glob("*.safetensors")}
    capsys.readouterr()
    assert run(words("sketch", out)) == 0
    assert "stage 2 of 2" in (said := capsys.readouterr().err) and "already finished" in said
    assert {file: file.stat().st_mtime_ns for file in times} == times
    assert_same(out, whole / "sketch")


def test_a_finished_run_is_left_alone(whole, words):
    files = {file: file.stat().st_mtime_ns for file in (whole / "sketch").rglob("*.safetensors")}
    assert run(words("sketch", whole / "sketch")) == 0
    assert {file: file.stat().st_mtime_ns for file in (whole / "sketch").rglob("*.safetensors")} == files


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--set", "stages.0.objectives.0.steps=4"], "recipe.stages.0.objectives.0.steps is 3, not 4"),
        (["--images", "48"], "duration is 32, not 24"),
        (["--recipe", "d2o-f"], "contains another run"),
        (["--set", "stages.1.frozen=[name:nothing]"], "name:nothing"),
        (["--set", "stages.2.seed=1"], "there are 0, 1."),
    ],
)
def test_another_run_in_its_directory_is_refused(whole, words, capsys, more, said):
    assert run(words("sketch", whole / "sketch", *more)) == 2
    assert said in complaint(capsys.readouterr().err)


def test_stages_do_not_pretrain(tmp_path, tiny_data, capsys):
    assert run(["pretrain", "--data", str(tiny_data), "--recipe", "sketch-gan", "--out", str(tmp_path / "x")]) == 2
    assert "d2o finetune" in complaint(capsys.readouterr().err)


def test_a_later_stage_imitates_the_first_teacher(tiny_denoiser):
    teacher = tiny_denoiser(classes=2)
    start = teacher.replace(backbone=type(teacher.backbone)(**teacher.backbone.config))
    recipe: Any = open_recipe(WHAT["sketch"][0], {})
    made: Any = stages.taught_by(teacher, d2o.networks)(recipe, start)
    for network, own in ((made.teacher, teacher), (made.student, start)):
        pairs = zip(network.backbone.parameters(), own.backbone.parameters(), strict=True)
        assert all(torch.equal(a, b) for a, b in pairs)


class TestRecipes:
    def test_a_duration_is_shared_out_and_other_paths_change_all_stages_or_one(self):
        stages = STAGES["digits-sketch-gan"]
        assert change(stages, "duration", 1001).duration == 1001
        shares = [stage.duration / stages.duration for stage in stages.stages]
        assert [stage.duration for stage in change(stages, "duration", 4000).stages] == [4000 * part for part in shares]
        assert {stage.seed for stage in change(stages, "seed", 3).stages} == {3}
        assert [stage.seed for stage in change(stages, "stages.1.seed", 3).stages] == [0, 3]

    def test_a_list_is_stages_of_names_recipes_and_changes(self, tmp_path):
        rows = ["cd", {"recipe": "d2o", "data": "teacher", "seed": 2}, STAGES["sketch-gan"]]
        stages = open_recipe(rows, {"batch_size": 32})
        assert isinstance(stages, Stages) and len(stages.stages) == 4
        assert stages.stages[1].data == TeacherImages() and stages.stages[1].seed == 2
        (tmp_path / "mine.yaml").write_text("- cd\n- recipe: d2o\n  seed: 2\n  data: teacher\n- sketch-gan\n")
        assert open_recipe(tmp_path / "mine.yaml", {"batch_size": 32}) == stages

    @pytest.mark.parametrize(
        ("rows", "names"),
        [
            ([], ("stages", "at least 1")),
            (["d2o", "scratch"], ("pretrained",)),
            ([3], ("'3'",)),
            ([{"recipe": "d2o", "duratoin": 3}], ("'duration'",)),
            ([{"recipe": "d2o", "data": {"kind": "teacher", "guidence": 2}}], ("'guidance'",)),
            ({"stages": ["d2o"], "seed": 3}, ("unknown key 'seed'",)),
        ],
    )
    def test_what_is_wrong_is_one_sentence(self, rows, names):
        with refused(*names):
            open_recipe(rows, {})

    def test_the_stage_is_named(self):
        with refused("Stage 2", "objectives.0.r1"):
            change(STAGES["sketch-gan"], "stages.1.objectives.0.r1", -1)


class TestTeacherImages:
    def test_they_are_the_guided_teachers_of_the_datas_classes(self, whole, teacher, tiny_data):
        (folder,) = (whole / "teacher").glob("teacher-images-*")
        found, model, data = d2o.images(folder), d2o.load(teacher), d2o.images(tiny_data)
        assert len(found) == 20 and data.labels is not None and found.labels is not None
        assert np.abs(found.counts / 20 - data.counts / len(data)).max() <= 0.25
        for guidance, same in ((2.0, True), (1.0, False)):
            drawn = d2o.generate(model, range(20), steps=2, guidance=guidance, condition=found.labels.tolist())
            assert np.array_equal(to_uint8(torch.cat(list(drawn))), found.pixels(range(20))) == same
        asked = json.loads((whole / "teacher/stage-2/recipe.json").read_text())
        assert asked["data"]["images"] == 20 and asked["data"]["fingerprint"] == found.fingerprint

    def test_those_that_are_there_are_not_made_again(self, tmp_path, whole, words, monkeypatch):
        monkeypatch.setattr(teacher_images, "SHARD", 8)
        make, drawn = teacher_images.generate, []

        def kill(model, seeds, **options):
            drawn.append(seeds)
            if len(drawn) == 2:
                raise KeyboardInterrupt
            return make(model, seeds, **options)

        monkeypatch.setattr(teacher_images, "generate", kill)
        assert run(words("teacher", tmp_path / "run")) == 130
        assert run(words("teacher", tmp_path / "run")) == 0
        assert run(words("teacher", tmp_path / "run")) == 0
        assert drawn == [range(8), range(8, 16), range(8, 16), range(16, 20)]
        assert_same(tmp_path / "run", whole / "teacher")

    def test_guidance_needs_a_condition(self, tmp_path, tiny_denoiser, tiny_data):
        with refused("Guidance", "classes or captions"):
            d2o.finetune(tiny_denoiser(), tiny_data, WHAT["teacher"], out=tmp_path / "run")
        assert not (tmp_path / "run").exists()

    def test_a_model_that_is_asked_in_words_gets_the_datas_captions(self, tmp_path):
        data = d2o.images("shapes").subset(range(20))
        tiny = {"kind": "text_transformer", "channels": 8, "num_blocks": 1, "num_heads": 2}
        teacher = d2o.untrained(tiny, data.shape, reader=fit.read_words(data))
        found = teacher_images.draw_teacher(teacher, data, TeacherImages(count=25, steps=1), tmp_path, group(), unshown)
        known = {data.captions(index)[0] for index in range(20)}
        assert not list(tmp_path.rglob("ATTRIBUTION")), "nobody has to be named"
        assert {found.captions(index)[0] for index in range(20)} == known and len(found) == 25

    def test_those_whom_users_of_the_data_must_name_are_named_beside_the_images(self, tmp_path, tiny_denoiser):
        folder = tmp_path / "real"
        folder.mkdir()
        for index in range(4):
            Image.fromarray(np.full((8, 8), 60 * index, np.uint8)).save(folder / f"{index}.png")
        (folder / "ATTRIBUTION").write_text("Pictures by Ada.\n\nAnd a licence.\n")
        asked, images = TeacherImages(count=4, steps=1), d2o.images(folder)
        teacher_images.draw_teacher(tiny_denoiser(), images, asked, tmp_path, group(), unshown)
        (beside,) = tmp_path.glob("teacher-images-*/ATTRIBUTION")
        assert beside.read_text() == "Pictures by Ada.\n"


@pytest.mark.parametrize("objectives", [(Adversarial(),), (Adversarial(), Consistency())])
def test_a_later_stage_is_judged_through_the_teacher_and_not_through_its_own_start(tiny_denoiser, objectives):
    recipe = Recipe(discriminator=OwnFeatures(), objectives=objectives)
    teacher, start = tiny_denoiser(0), tiny_denoiser(1)
    looks = stages.taught_by(teacher, networks)(recipe, start).discriminator.look.denoiser
    for found, wanted in zip(looks.parameters(), teacher.parameters(), strict=True):
        assert torch.equal(found, wanted)
