"""Where a journal may be, and what is said where it may not."""

import os

import pytest

from omniq.errors import ConfigError, StorageError, UnsupportedFormat
from omniq.storage.base import GENESIS
from omniq.storage.file import FileStorage
from omniq.storage.sqlite import SQLiteStorage
from tests.storage.language import append, contents, names_in, names_of, opened, read_all

BACKENDS = [FileStorage, SQLiteStorage]
each_backend = pytest.mark.parametrize("backend", BACKENDS)


def everything_below(path):
    return {found: found.read_bytes() for found in path.rglob("*") if found.is_file()}


@each_backend
@pytest.mark.parametrize("path", ["", "a\0b"])
def test_path_that_is_none_is_refused(backend, path):
    with pytest.raises(ConfigError, match="name a directory"):
        backend(path)


@each_backend
@pytest.mark.parametrize("read_only", [False, True])
async def test_missing_parent_is_said(backend, tmp_path, read_only):
    with pytest.raises(StorageError, match="missing"):
        await backend(tmp_path / "missing" / "journal", read_only=read_only).open()
    assert list(tmp_path.iterdir()) == []


@each_backend
async def test_nothing_to_read_is_said_and_nothing_is_created(backend, tmp_path):
    with pytest.raises(UnsupportedFormat, match="no journal"):
        await backend(tmp_path / "journal", read_only=True).open()
    assert list(tmp_path.iterdir()) == []


@each_backend
async def test_path_below_a_file_is_said(backend, tmp_path):
    """As without permission, the system refuses."""
    (tmp_path / "file").write_text("mine", encoding="utf-8")
    with pytest.raises(StorageError, match="cannot open the journal"):
        await backend(tmp_path / "file" / "journal").open()
    assert (tmp_path / "file").read_text(encoding="utf-8") == "mine"


@each_backend
async def test_folder_without_permission_is_said(backend, tmp_path):
    if os.geteuid() == 0:
        # Permission bits do not bind root, but the kernel's own files refuse everyone.
        locked = "/proc/self"
    else:
        locked = tmp_path / "locked"
        locked.mkdir(mode=0o500)
    with pytest.raises(StorageError, match="cannot open the journal"):
        await backend(f"{locked}/journal").open()


async def test_file_where_a_folder_is_meant_is_refused_and_kept(tmp_path):
    path = tmp_path / "journal"
    path.write_text("mine", encoding="utf-8")
    for read_only in (False, True):
        with pytest.raises(UnsupportedFormat):
            await FileStorage(path, read_only=read_only).open()
    assert path.read_text(encoding="utf-8") == "mine"


async def test_folder_where_a_file_is_meant_is_refused_and_kept(tmp_path):
    path = tmp_path / "jobs.db"
    path.mkdir()
    for read_only in (False, True):
        with pytest.raises(UnsupportedFormat, match="directory"):
            await SQLiteStorage(path, read_only=read_only).open()
    assert list(tmp_path.rglob("*")) == [path]


@pytest.mark.parametrize("name", ["mine.txt", "1.seg", "0000000000000000000x.seg", "sub/mine"])
async def test_folder_with_other_files_is_refused_and_kept(tmp_path, name):
    path = tmp_path / "journal"
    (path / name).parent.mkdir(parents=True)
    (path / name).write_text("mine", encoding="utf-8")
    before = everything_below(path)
    for read_only in (False, True):
        with pytest.raises(UnsupportedFormat):
            await FileStorage(path, read_only=read_only).open()
    assert everything_below(path) == before
    assert sorted(path.iterdir()) == [path / name.partition("/")[0]]


async def test_file_of_someone_else_under_a_segments_name_is_refused_and_kept(tmp_path):
    path = tmp_path / "journal"
    path.mkdir()
    (path / "00000000000000000001.seg").write_text("mine, and rather long", encoding="utf-8")
    before = contents(path)
    for read_only in (False, True):
        with pytest.raises(UnsupportedFormat, match="does not begin like a segment"):
            await FileStorage(path, read_only=read_only).open()
    assert contents(path) == before


async def test_journal_may_lie_in_a_folder_that_is_empty_or_holds_a_journal(tmp_path):
    path = tmp_path / "journal"
    path.mkdir()
    async with opened(FileStorage(path)) as storage:
        await append(storage, "a")
    (path / "notes.txt").write_text("mine", encoding="utf-8")
    assert await names_in(FileStorage(path)) == ["a"]


@each_backend
@pytest.mark.parametrize("name", ["a b", "100%?#&", "ü\N{SNOWMAN}", "x" * 200, "-wal"])
async def test_name_may_be_odd_or_long(backend, tmp_path, name):
    """A wake socket's own path may have about a hundred bytes; there is a way around."""
    async with opened(backend(tmp_path / name)) as storage:
        await append(storage, "a")
        async with opened(storage.sibling()) as other:
            other._rendezvous.listen()
            await append(storage, "b")
            await other.wait(1)
            assert names_of(await read_all(other)) == ["a", "b"]


@each_backend
async def test_relative_path_means_the_same_after_the_working_directory_changed(
    backend, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    options = {"segment_bytes": 300} if backend is FileStorage else {}
    async with opened(backend("journal", **options)) as storage:
        assert storage.location == "journal"
        (tmp_path / "elsewhere").mkdir()
        monkeypatch.chdir(tmp_path / "elsewhere")
        for name in "abcdef":
            await append(storage, name)
        async with opened(storage.sibling()) as other:
            assert names_of(await read_all(other)) == list("abcdef")
    assert list((tmp_path / "elsewhere").iterdir()) == []


@each_backend
async def test_wake_folder_that_was_removed_is_no_failed_append(backend, tmp_path):
    async with opened(backend(tmp_path / "journal")) as storage:
        (storage._rendezvous.folder / "wake").rmdir()
        await append(storage, "a")
        assert names_of(await read_all(storage)) == ["a"]


@each_backend
@pytest.mark.parametrize("name", ["../../x", "a/b", "", "w" * 65, "w.1"])
async def test_name_of_a_worker_is_no_path(backend, tmp_path, name):
    async with opened(backend(tmp_path / "journal")) as storage:
        assert not storage.is_dead(name)
        with pytest.raises(StorageError, match="no name for a worker"):
            await storage.hold_life(name)


@each_backend
async def test_life_of_a_worker_is_held_once(backend, tmp_path):
    async with opened(backend(tmp_path / "journal")) as storage, opened(storage.sibling()) as other:
        await storage.hold_life("w1")
        with pytest.raises(StorageError, match="already lives"):
            await other.hold_life("w1")


def test_genesis_is_zero():
    assert bytes(32) == GENESIS
