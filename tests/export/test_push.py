"""Pushing to the hub, by its own client against a stand-in on this machine: what is sent, and what is refused."""

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

import d2o
from conftest import make_denoiser
from d2o.checkpoints.publication import find_card
from d2o.cli.main import run
from d2o.export import export
from d2o.export.push import push
from refusal import refused

from .hub import Hub, hub_here


@pytest.fixture
def hub(monkeypatch) -> Iterator[Hub]:
    """Return a hub that the client asks, with a token."""
    with hub_here() as server:
        monkeypatch.setenv("HF_ENDPOINT", server.address)
        monkeypatch.setenv("HF_TOKEN", "hf_secret")
        monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
        yield server


@pytest.fixture
def student(tmp_path) -> Path:
    """Return an export with a licence: a file, its card and its description."""
    return export(make_denoiser(), tmp_path / "student.safetensors", "safetensors", license="mit").path


def card_of(file: Path) -> Path:
    return find_card(file, in_folder=False)


def test_a_file_goes_with_its_card_and_description(hub, student, capsys):
    assert run(["push", str(student), "me/x", "--private", "--message", "After 20,000 images", "--json"]) == 0
    record = json.loads(capsys.readouterr().out)
    assert record["commit"] == f"{hub.address}/me/x/commit/1"
    beside = {"student.safetensors": student, "README.md": card_of(student)}
    beside |= {"student.json": student.with_suffix(".json")}
    assert hub.files == {name: file.read_bytes() for name, file in beside.items()}
    assert record["files"] == {name: file.stat().st_size for name, file in beside.items()}
    assert hub.message == "After 20,000 images" and hub.tokens == {"Bearer hf_secret"}
    assert hub.made["organization"] == "me" and hub.made["name"] == "x"
    assert hub.made.get("visibility") == "private" or hub.made.get("private") is True


def test_a_folder_goes_whole_but_for_what_is_hidden(hub, tmp_path):
    folder = export(make_denoiser(), tmp_path / "folder", "diffusers", license="mit").path
    (folder / ".cache").mkdir()
    (folder / ".cache" / "x").touch()
    (folder / ".env").touch()
    assert push(folder, "me/x", revision="next") == f"{hub.address}/me/x/commit/1"
    assert "README.md" in hub.files and "unet/diffusion_pytorch_model.safetensors" in hub.files
    assert not any(".cache" in name or ".env" in name for name in hub.files)
    assert any("/commit/next" in path for path in hub.asked)


def test_a_dry_run_asks_nobody(hub, student, capsys, monkeypatch):
    monkeypatch.delenv("HF_TOKEN")
    assert run(["push", str(student), "me/x", "--dry-run"]) == 0
    printed = capsys.readouterr().out
    assert all(name in printed for name in ("student.safetensors", "README.md", "student.json"))
    assert hub.asked == []


@pytest.mark.parametrize(
    ("part", "code", "names"),
    [
        ("create", 401, ["me/x", "hf auth login"]),
        ("create", 403, ["me/x", "write access"]),
        ("preupload", 404, ["me/x", "--revision"]),
        ("/commit/", 409, ["me/x", "try again"]),
        ("create", 500, ["me/x", "500", "try again"]),
        ("/commit/", 413, ["me/x", "413"]),
        ("validate-yaml", 400, ["me/x", "README.md", "not so"]),
        ("create", 299, ["me/x", "not accept"]),
    ],
)
def test_a_refusal_is_one_sentence(hub, student, part, code, names):
    hub.refusals = {part: code, "api/models/me/x": 404} if part == "create" else {part: code}
    with refused(*names):
        push(student, "me/x")
    assert hub.files == {}


def test_what_is_private_is_not_sent_to_a_public_place(hub, student):
    hub.private, hub.refusals = False, {"create": 409}
    with refused("me/x", "public", "--private"):
        push(student, "me/x", private=True)
    assert hub.files == {}


def test_without_a_network_or_a_token_there_is_a_sentence(hub, student, monkeypatch, tmp_path, capsys):
    hub.server_close()
    with refused("cannot be reached", "network"):
        push(student, "me/x")
    monkeypatch.setenv("D2O_OFFLINE", "1")
    with refused("D2O_OFFLINE", "unset"):
        push(student, "me/x")
    monkeypatch.delenv("D2O_OFFLINE")
    monkeypatch.delenv("HF_TOKEN")
    monkeypatch.setattr("huggingface_hub.constants.HF_TOKEN_PATH", str(tmp_path / "no-token"))
    assert run(["push", str(student), "me/x"]) == 2
    assert "hf auth login" in capsys.readouterr().err


def test_only_an_export_with_a_licence_is_sent(hub, tmp_path, student):
    (tmp_path / "empty").mkdir()
    d2o.save(tmp_path / "bare.safetensors", make_denoiser())
    export(make_denoiser(), tmp_path / "free.safetensors", "safetensors")
    (tmp_path / "noise.safetensors").write_bytes(os.urandom(100))
    (tmp_path / "other.onnx").touch()
    card_of(tmp_path / "other.onnx").write_text(card_of(student).read_text())
    cases = {
        "missing": ["missing", "d2o export"],
        "empty": ["empty", "export"],
        "bare.safetensors": ["bare.safetensors", "bare.safetensors.md", "--license"],
        "free.safetensors": ["free.safetensors.md", "licence", "--license"],
        "noise.safetensors": ["noise.safetensors"],
        "other.onnx": ["other.onnx.md", "student.safetensors", "another name"],
    }
    for name, words in cases.items():
        with refused(*words):
            push(tmp_path / name, "me/x")
    for name in ("x", "me/x/y", "me/", "../x", "me/x y"):
        with refused(name, "OWNER/NAME"):
            push(student, name)
    assert hub.asked == []


def test_links_are_not_followed(hub, tmp_path):
    folder = export(make_denoiser(), tmp_path / "folder", "diffusers", license="mit").path
    (tmp_path / "secret").write_text("secret")
    (folder / "notes.txt").symlink_to(tmp_path / "secret")
    with refused("notes.txt", "link"):
        push(folder, "me/x")
    assert hub.asked == []
