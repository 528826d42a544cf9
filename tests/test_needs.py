"""What is missing is told, and does not pass where it is required."""

import pytest

import needs


@pytest.fixture
def bare(monkeypatch):
    """Be on a machine without programs."""
    monkeypatch.setattr(needs.shutil, "which", lambda _: None)


WANTED = {
    "chromium": (needs.chromium, (), "apt-get install chromium"),
    "node": (needs.node, (), "apt-get install nodejs"),
    "package": (needs.package, ("no_such_package",), "pip install -e"),
}


@pytest.mark.parametrize(("find", "words", "hint"), WANTED.values(), ids=WANTED)
@pytest.mark.parametrize(("required", "outcome"), [("", pytest.skip.Exception), ("1", pytest.fail.Exception)])
def test_what_is_missing_is_skipped_or_fails(bare, monkeypatch, find, words, hint, required, outcome):
    monkeypatch.setenv(needs.REQUIRED, required)
    with pytest.raises(outcome, match=hint):
        find(*words)


def test_what_is_there_and_starts_is_found(monkeypatch, tmp_path):
    for name, code in {"chromium": 1, "google-chrome": 0, "node": 0}.items():
        (tmp_path / name).write_text(f"#!/bin/sh\nexit {code}\n")
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert needs.chromium() == str(tmp_path / "google-chrome") and needs.node() == str(tmp_path / "node")
    assert needs.package("json").dumps([]) == "[]"
