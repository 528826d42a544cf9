"""A run goes on with changed images when it is told to, and says what changed; with nothing else changed."""

import json
import shutil

import numpy as np
import pytest

from d2o.cli.main import run
from d2o.data.files import write_images
from d2o.training.run_directory import claim, list_differences

from .command import arguments, complaint


@pytest.fixture
def folder(tiny_data, tmp_path):
    tiny = dict(np.load(tiny_data))
    return write_images(tmp_path / "photos", [tiny["images"]], labels=tiny["labels"].tolist())


def remove_image(folder, number: int) -> None:
    name = f"{number:06d}.png"
    (folder / name).unlink()
    labels = json.loads((folder / "dataset.json").read_text())["labels"]
    (folder / "dataset.json").write_text(json.dumps({"labels": [row for row in labels if row[0] != name]}))


def test_a_damaged_image_is_removed_and_the_run_goes_on(stopped, folder, teacher, tmp_path, capsys):
    out = tmp_path / "run"
    shutil.copytree(stopped, out)
    words, before = arguments(teacher, folder, out), (out / "recipe.json").read_text()
    (folder / "000007.png").write_bytes(b"\x89PNG damaged")
    capsys.readouterr()
    assert run(words) == 2
    assert "000007.png" in complaint(capsys.readouterr().err)
    remove_image(folder, 7)
    assert run(words) == 2
    sentence = complaint(capsys.readouterr().err)
    assert "data.images is 40, not 39" in sentence and "--accept-data" in sentence
    assert run([*words, "--seed", "1", "--accept-data"]) == 2, "other settings are another run"
    assert "recipe.seed" in capsys.readouterr().err and (out / "recipe.json").read_text() == before
    assert run([*words, "--accept-data"]) == 0
    assert "data.images is 40, not 39" in capsys.readouterr().err
    assert [json.loads(row)["images"] for row in (out / "metrics.jsonl").read_text().splitlines()][-1] == 240
    assert run(words) == 0, "from now on these are its images"
    assert "already finished" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("change", "accepted"),
    [
        ({"images": 39}, True),
        ({"fingerprint": "0"}, True),
        ({"name": "other", "fingerprint": "0"}, True),
        ({"shape": [3, 8, 8]}, False),
        ({"classes": 1, "fingerprint": "0"}, False),
    ],
)
def test_networks_limit_what_can_be_accepted(tmp_path, tiny_data, change, accepted):
    import d2o

    recipe, images = d2o.recipes.RECIPES["digits-pretrain"], d2o.images(tiny_data)
    claim(tmp_path / "run", recipe, {}, images).__exit__(None, None, None)
    file = tmp_path / "run/recipe.json"
    asked = json.loads(file.read_text())
    file.write_text(json.dumps({**asked, "data": {**asked["data"], **change}}))
    if accepted:
        claim(tmp_path / "run", recipe, {}, images, accept_data=True).__exit__(None, None, None)
        assert list_differences(json.loads(file.read_text()), asked) == []
    else:
        with pytest.raises(ValueError, match=f"data.{next(iter(change))}") as caught:
            claim(tmp_path / "run", recipe, {}, images, accept_data=True)
        assert "--accept-data" not in str(caught.value)
