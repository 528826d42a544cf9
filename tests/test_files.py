"""Files are either whole or not there, and places to write to are tried before long work."""

import errno
import os
import resource
import zipfile
from pathlib import Path

import pytest

from d2o.files import (
    MOST_VALUES,
    append,
    atomic,
    check_file,
    check_folder,
    explain_refusal,
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


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.EFBIG, "File too large"),
        OSError(errno.EDQUOT, "Disk quota exceeded"),
        OSError(errno.EROFS, "Read-only file system"),
        OSError(errno.EIO, "Input/output error"),
        RuntimeError(
            "Error while serializing: I/O error: No space left on device (os error 28)"
        ),  # as safetensors says
    ],
)
def test_whatever_the_system_refuses_is_one_sentence_with_a_remedy(tmp_path, error):
    (tmp_path / "a.txt").write_text("old")
    for write in (atomic(tmp_path / "a.txt"), explain_refusal(tmp_path / "a.txt")):
        with refused("a.txt", "choose another place", error=OSError), write:
            raise error
    assert (tmp_path / "a.txt").read_text() == "old" and len(list(tmp_path.iterdir())) == 1


def test_lines_are_added_whole_or_not_at_all(tmp_path):
    file, (soft, hard) = tmp_path / "log", resource.getrlimit(resource.RLIMIT_FSIZE)
    append(file, "one\n")
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
        with refused("log", "ulimit", error=OSError):
            append(file, "x" * 2000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    append(file, "two\n")
    assert file.read_text() == "one\ntwo\n"


def test_a_file_is_on_the_disk_before_it_takes_its_place(tmp_path, monkeypatch):
    """What the file system is asked for, in order: contents, the new name, the folder."""
    steps, sync, replace = [], os.fsync, Path.replace

    def note(handle):
        steps.append(os.fstat(handle).st_ino)
        sync(handle)

    monkeypatch.setattr(os, "fsync", note)
    monkeypatch.setattr(Path, "replace", lambda *paths: steps.append("replace") or replace(*paths))
    with atomic(tmp_path / "a.txt") as temporary:
        temporary.write_text("new")
    assert steps == [(tmp_path / "a.txt").stat().st_ino, "replace", tmp_path.stat().st_ino]


def test_a_disk_that_fills_at_the_last_moment_changes_nothing(tmp_path, monkeypatch):
    def refuse(_):
        raise OSError(errno.ENOSPC, "No space left on device")

    (tmp_path / "a.txt").write_text("old")
    monkeypatch.setattr(os, "fsync", refuse)
    with refused("a.txt", "disk is full", error=OSError), atomic(tmp_path / "a.txt") as temporary:
        temporary.write_text("new")
    assert (tmp_path / "a.txt").read_text() == "old" and len(list(tmp_path.iterdir())) == 1
