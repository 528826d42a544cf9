"""Tracking: what a run's log contains arrives at the service once, also when the run was killed on the way."""

import json
import logging
import sys
from types import SimpleNamespace
from typing import Any

import pytest
from accelerate import PartialState

from d2o.training import tracking
from d2o.training.tracking import check_service, numbers, track
from refusal import refused


class Service:
    """A tracker that only keeps what it is given."""

    def __init__(self, _):
        self.lines, self.settings, self.finished = [], None, 0

    def start(self):
        print("Hello!")

    def store_init_configuration(self, settings):
        self.settings = settings

    def log(self, values, step):
        self.lines.append((step, values))

    def finish(self):
        self.finished += 1


@pytest.fixture(autouse=True)
def group():
    PartialState()  # as a run has one


@pytest.fixture
def services(monkeypatch):
    """Put a service that only remembers in the place of trackio; return those that were opened."""
    opened = []
    monkeypatch.setitem(tracking.SERVICES, "trackio", lambda run: opened.append(Service(run)) or opened[-1])
    monkeypatch.setattr(tracking.importlib.util, "find_spec", lambda name: name)
    return opened


def moments(directory, images) -> Any:
    """Write the log as a run does, and yield after each line, and once without a line."""
    (directory / "recipe.json").write_text(json.dumps({"recipe": {"seed": 0, "betas": [0.0, 0.99]}}))
    for count in images:
        with (directory / "metrics.jsonl").open("a") as file:
            file.write(json.dumps({"images": count, "loss": {"student": count / 2}}) + "\n")
        yield SimpleNamespace(logged=True, images=count)
        yield SimpleNamespace(logged=False, images=count + 1)


def test_every_line_is_sent_with_its_images_and_the_moments_pass_through(tmp_path, services, capsys):
    seen: Any = track(moments(tmp_path, [8, 16]), tmp_path, "trackio")
    assert [moment.images for moment in seen] == [8, 9, 16, 17]
    (service,) = services
    assert service.lines == [(8, {"loss/student": 4.0}), (16, {"loss/student": 8.0})]
    assert service.settings == {"recipe.seed": "0", "recipe.betas.0": "0.0", "recipe.betas.1": "0.99"}
    assert service.finished == 1
    assert capsys.readouterr() == ("", "Hello!\n"), "what it prints is no part of the outcome"


def test_a_run_that_continues_sends_each_line_once_and_what_came_before_tracking(tmp_path, services):
    for _ in moments(tmp_path, [8]):
        pass  # not tracked yet
    stream: Any = track(moments(tmp_path, [16, 24, 32]), tmp_path, "trackio")
    for _ in range(3):
        next(stream)
    stream.close()  # killed: its checkpoint was that of 16 images
    assert services[0].finished == 1
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines(keepends=True)[:2]
    (tmp_path / "metrics.jsonl").write_text("".join(lines))
    list(track(moments(tmp_path, [24, 32]), tmp_path, "trackio"))
    assert [images for service in services for images, _ in service.lines] == [8, 16, 24, 32]


def test_numbers_are_found_by_path_and_words_are_left_out():
    line = {"images": 8, "loss": {"student": 1}, "evaluation": {"kid": 0.5, "features": "lite2", "recall": None}}
    assert numbers(line) == {"loss/student": 1.0, "evaluation/kid": 0.5}


def test_a_missing_package_names_the_extra(monkeypatch):
    monkeypatch.setattr(tracking.importlib.util, "find_spec", lambda name: None)
    with refused("[wandb]"):
        check_service("wandb")
    with refused("comet", "tensorboard", "trackio", "wandb"):
        check_service("comet")


@pytest.mark.parametrize("name", ["trackio", "wandb"])
def test_the_two_services_are_called_as_they_want(tmp_path, monkeypatch, name):
    calls: list[Any] = []
    run = SimpleNamespace(log=lambda numbers, step: calls.append((numbers, step)), finish=lambda: calls.append("end"))
    config = SimpleNamespace(update=lambda values, **_: calls.append(values))
    module = SimpleNamespace(init=lambda **settings: calls.append(settings) or run, config=config)
    monkeypatch.setitem(sys.modules, name, module)
    list(track(moments(tmp_path, [8]), tmp_path, name))
    start, settings, line, end = calls
    assert start["project"] == "d2o" and start["name"] == tmp_path.name and start["resume"] == "allow"
    assert settings["recipe.seed"] == "0"
    assert line == ({"loss/student": 4.0}, 8) and end == "end"


def test_tensorboard_reads_what_was_written(tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    list(track(moments(tmp_path, [8, 16]), tmp_path, "tensorboard"))
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert [(event.step, event.value) for event in events.Scalars("loss/student")] == [(8, 4.0), (16, 8.0)]


@pytest.mark.parametrize("method", ["start", "log", "finish"])
def test_a_service_that_fails_ends_no_run(tmp_path, services, monkeypatch, caplog, method):
    def refuse(*_, **__):
        raise RuntimeError("no space left, no network")

    monkeypatch.setattr(logging.getLogger("d2o"), "propagate", True)
    monkeypatch.setattr(Service, method, refuse)
    seen: Any = track(moments(tmp_path, [8, 16]), tmp_path, "trackio")
    assert [moment.images for moment in seen] == [8, 9, 16, 17]
    assert "trackio" in caplog.text and "metrics.jsonl" in caplog.text


@pytest.mark.parametrize("mark", ["", "[]", '{"trackio": 3}', '{"trackio": {"images": "many"}}', "[" * 99999])
def test_a_damaged_mark_sends_the_log_again(tmp_path, services, mark):
    (tmp_path / "tracked.json").write_text(mark)
    list(track(moments(tmp_path, [8]), tmp_path, "trackio"))
    assert services[0].lines == [(8, {"loss/student": 4.0})]
