"""Files are either whole or not there, and places to write to are tried before long work."""

import errno
import os
import zipfile
from pathlib import Path

import pytest

from d2o.files import (
    MOST_VALUES,
    atomic,
    check_file,
    check_folder,
    open_regular,
    open_zip,
    parse_json,
    read_bytes,
)
from refusal import refused


class TestPlacesToWriteTo:
    @pytest.fixture
    def refuse_folders(self, monkeypatch):
        """Return a function after whose call the system refuses to make anything."""

        def refuse(number):
            def mkdir(path, *_):
                raise OSError(number, os.strerror(number), path)

            monkeypatch.setattr(os, "mkdir", mkdir)

        return refuse

    @pytest.mark.parametrize("name", [".", "new", "a/b/c"])
    def test_a_good_one_is_left_as_it_was(self, tmp_path, monkeypatch, name):
        monkeypatch.chdir(tmp_path)
        assert check_folder(name) == Path(name) and check_file(f"{name}/a.png") == Path(name, "a.png")
        assert check_folder(tmp_path / name) == tmp_path / name
        assert not list(tmp_path.iterdir())

    @pytest.mark.parametrize("name", ["", " "])
    def test_an_empty_name_is_not_the_current_folder(self, name):
        with refused("empty", "directory"):
            check_folder(name)
        with refused("empty", "file"):
            check_file(name)

    def test_files_in_the_way(self, tmp_path):
        (tmp_path / "file").touch()
        (tmp_path / "nowhere").symlink_to(tmp_path / "gone")
        for name in ("file", "file/deep/in", "nowhere"):
            with refused(name.split("/")[0], "directory"):
                check_folder(tmp_path / name)
        with refused(str(tmp_path), "file"):
            check_file(tmp_path)

    def test_what_the_system_refuses_is_named(self, tmp_path, refuse_folders):
        refuse_folders(errno.EACCES)
        with refused(str(tmp_path), "permission denied"):
            check_folder(tmp_path)
        refuse_folders(errno.ENOSPC)
        with refused("new/one", "no space left on device"):
            check_folder(tmp_path / "new" / "one")


def test_atomic_replaces_and_makes_folders(tmp_path):
    target = tmp_path / "new" / "a.txt"
    for text in ("one", "two"):
        with atomic(target) as path:
            assert path.parent == target.parent and path.suffix == ".txt"
            path.write_text(text)
        assert target.read_text() == text
    assert list(target.parent.iterdir()) == [target]


@pytest.mark.parametrize("failure", [RuntimeError, KeyboardInterrupt])
def test_a_failing_writer_changes_nothing(tmp_path, failure):
    target = tmp_path / "a.txt"
    target.write_text("old")
    with pytest.raises(failure), atomic(target) as path:
        path.write_text("half")
        raise failure
    with pytest.raises(failure), atomic(tmp_path / "folder") as path:
        path.mkdir()
        (path / "part").touch()
        raise failure
    assert target.read_text() == "old" and list(tmp_path.iterdir()) == [target]


def test_a_full_disk_is_said_clearly(tmp_path):
    with refused("a.txt", "disk is full", error=OSError), atomic(tmp_path / "a.txt"):
        raise OSError(errno.ENOSPC, "No space left on device")
    assert not list(tmp_path.iterdir())


def test_an_unrelated_error_passes_unchanged(tmp_path):
    with refused("elsewhere", error=FileNotFoundError), atomic(tmp_path / "a.txt"):
        (tmp_path / "elsewhere").read_text()


def test_a_target_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").touch()
    with refused("a.txt", error=OSError), atomic(tmp_path / "file" / "a.txt") as path:
        path.touch()
    (tmp_path / "folder").mkdir()
    with refused("folder", "directory", error=OSError), atomic(tmp_path / "folder") as path:
        path.touch()


def test_what_is_written_can_be_read_by_whom_the_system_lets(tmp_path: Path) -> None:
    """safetensors writes files that only their owner may read; ours are like any program's."""
    (tmp_path / "plain").write_text("")
    with atomic(tmp_path / "ours") as temporary:
        temporary.write_text("")
        temporary.chmod(0o600)
    assert (tmp_path / "ours").stat().st_mode == (tmp_path / "plain").stat().st_mode


class TestLimits:
    """What is too large is refused before it is read."""

    def test_files(self, tmp_path: Path) -> None:
        (tmp_path / "a").write_bytes(b"12345")
        assert read_bytes(tmp_path / "a", 5) == b"12345"
        with open_regular(tmp_path / "a", 5) as file:
            assert file.read() == b"12345"
        for read in (read_bytes, open_regular):
            with pytest.raises(OSError, match="larger than 4 bytes"):
                read(tmp_path / "a", 4)

    def test_json_is_counted_before_it_is_read(self) -> None:
        assert parse_json("[1, {}]") == parse_json(b"\xef\xbb\xbf[1, {}]") == [1, {}]
        for text in ("[" + "0," * MOST_VALUES + "0]", b"[" + b"[]," * MOST_VALUES + b"0]", "[" * 100_000):
            with pytest.raises(ValueError, match=r"values|deeply"):
                parse_json(text)

    def test_zips(self, tmp_path: Path, monkeypatch) -> None:
        with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
            for i in range(9):
                archive.writestr(str(i), b"PK\1\2" * 20)
        monkeypatch.setattr("d2o.files.MOST_ENTRIES", 20)
        with open_zip(tmp_path / "a.zip") as archive:
            assert len(archive.namelist()) == 9 and archive.testzip() is None
        monkeypatch.setattr("d2o.files.MOST_ENTRIES", 8)
        with pytest.raises(zipfile.BadZipFile, match="entries"):
            open_zip(tmp_path / "a.zip")
