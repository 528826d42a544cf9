"""Logs are read while they grow, whatever stands in them, and nothing outside the chosen folder."""

import json
import os
import time

import pytest

from d2o.app.runs import LOG, POINTS, changed, place_of, read, runs_in


def line(images, **more):
    return json.dumps({"images": images, "seconds": images / 10, "loss": {"student": 1.0, "r1": 4.0}, **more}) + "\n"


@pytest.fixture
def folder(tmp_path):
    run = tmp_path / "runs" / "cifar" / "one-step"
    run.mkdir(parents=True)
    (run / LOG).write_text(line(100) + line(200, evaluation={"images": 200, "kid": 0.5, "features": "lite2@64"}))
    (run / "recipe.json").write_text('{"recipe": {"duration": 1000}}')
    return tmp_path / "runs"


def test_a_run_is_found_and_read(folder):
    assert runs_in(folder) == ["cifar/one-step"]
    log = read(folder, "cifar/one-step")
    assert log.losses == [{"images": n, "loss": 1.0, "network": "student"} for n in (0.1, 0.2)]
    assert log.evaluations == [{"images": 200, "kid": 0.5, "features": "lite2@64"}]
    assert (log.images, log.seconds, log.duration, log.growing, log.samples) == (200, 20.0, 1000, True, None)


def test_the_folder_may_be_a_run_itself(folder):
    assert runs_in(folder / "cifar" / "one-step") == ["."]
    assert read(folder / "cifar" / "one-step", ".").images == 200


def test_a_log_that_grew_differs(folder):
    before = changed(folder, "cifar/one-step")
    with (folder / "cifar/one-step" / LOG).open("a") as file:
        file.write(line(300)[:-9])  # half a line, as while it is written
    assert changed(folder, "cifar/one-step") != before
    assert read(folder, "cifar/one-step").images == 200


def test_a_run_is_live_until_it_is_finished_or_still(folder):
    place = folder / "cifar/one-step"
    os.utime(place / LOG, (time.time() - 3600, time.time() - 3600))
    assert not read(folder, "cifar/one-step").growing
    os.utime(place / LOG)
    assert read(folder, "cifar/one-step").growing
    (place / "ema.safetensors").touch()
    assert not read(folder, "cifar/one-step").growing


def test_what_is_no_line_of_a_log_is_left_out(folder):
    wrong = [
        "{",
        "[]",
        "3",
        "null",
        '{"images": "x"}',
        '{"images": NaN}',
        '{"images": ' + "9" * 400 + "}",
        '{"images": 1, "loss": [1]}',
        "\x00\xff",
    ]
    wrong += ['{"loss": {}}', '{"images": 5, "loss": {"student": "y", "a": null, "b": Infinity}}', "[" * 10_000]
    wrong += ['{"images": 6, "evaluation": 7, "seconds": {}}']
    with (folder / "cifar/one-step" / LOG).open("a") as file:
        file.write("\n".join(wrong) + "\n" + line(300))
    log = read(folder, "cifar/one-step")
    assert log.images == 300 and len(log.losses) == 3 and len(log.evaluations) == 1


@pytest.mark.parametrize("text", ["", "{", "[]", '{"recipe": 3}', '{"recipe": {"duration": "x"}}'])
def test_a_recipe_that_is_none_leaves_the_duration_open(folder, text):
    (folder / "cifar/one-step/recipe.json").write_text(text)
    assert read(folder, "cifar/one-step").duration is None


def test_a_long_log_is_thinned(folder):
    (folder / "cifar/one-step" / LOG).write_text("".join(line(n) for n in range(1, 5 * POINTS)))
    log = read(folder, "cifar/one-step")
    assert POINTS // 2 < len(log.losses) <= POINTS and log.images == 5 * POINTS - 1


@pytest.mark.parametrize("name", ["..", "../secret", "/etc", "", None, 3, [], "cifar", "cifar/one-step/../one-step"])
def test_a_name_that_is_not_listed_is_refused(folder, name):
    secret = folder.parent / "secret"
    secret.mkdir()
    (secret / LOG).write_text(line(1))
    for use in (place_of, read, changed):
        with pytest.raises(ValueError, match="There is no run"):
            use(folder, name)


def test_links_out_of_the_folder_are_not_followed(folder):
    secret = folder.parent / "secret"
    (secret / "samples").mkdir(parents=True)
    (secret / LOG).write_text(line(1))
    (secret / "recipe.json").write_text('{"recipe": {"duration": 77}}')
    (secret / "samples" / "00000001.png").touch()
    (folder / "linked").symlink_to(secret)
    (folder / "file").mkdir()
    (folder / "file" / LOG).symlink_to(secret / LOG)
    place = folder / "cifar/one-step"
    (place / "samples").symlink_to(secret / "samples")
    (place / "recipe.json").unlink()
    (place / "recipe.json").symlink_to(secret / "recipe.json")
    assert runs_in(folder) == ["cifar/one-step"]
    log = read(folder, "cifar/one-step")
    assert log.samples is None and log.duration is None
