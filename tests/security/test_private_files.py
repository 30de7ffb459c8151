"""Files and folders of a journal are for their owner alone, and strangers' are not trusted."""

import os
import stat
from pathlib import Path

import pytest

from omniq import AsyncOmniQ, StorageError, UnsupportedFormat
from omniq.storage.file import FileStorage
from omniq.storage.sqlite import SQLiteStorage
from omniq.tools import replay
from tests.app import jobs
from tests.storage.language import append, append_synced, names_in, opened, reboot, segments

BACKENDS = {"journal": FileStorage, "jobs.db": SQLiteStorage}
each_backend = pytest.mark.parametrize("name", BACKENDS)


@pytest.fixture(params=[0o000, 0o022, 0o077], ids=oct)
def umask(request):
    previous = os.umask(request.param)
    yield request.param
    os.umask(previous)


def modes_below(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): stat.filemode(path.lstat().st_mode)
        for path in folder.rglob("*")
    }


def are_private(modes: dict[str, str]) -> bool:
    return all(mode[4:] == "------" for mode in modes.values())


async def state():
    yield b"state"


@each_backend
async def test_everything_that_is_made_is_for_its_owner_alone(tmp_path: Path, umask, name) -> None:
    """While it is in use, with a worker and someone who waits, sockets and locks and all."""
    options = {"segment_bytes": 1000} if name == "journal" else {}
    storage = BACKENDS[name](tmp_path / name, **options)
    async with AsyncOmniQ(storage) as oq, oq.worker():
        for number in range(10):
            handle = await oq.enqueue(jobs.add, number)
            assert await handle.result(timeout=5) == number + 2
        storage._rendezvous.listen()
        head = await storage.head()
        await storage.save_snapshot(await storage.bookmark(head.seq), state())
        modes = modes_below(tmp_path)
    assert are_private(modes), modes
    kinds = {mode[0] for mode in modes.values()}
    assert kinds == {"-", "d", "s"}, "files, folders and sockets were there"
    found = " ".join(modes)
    expected = ["journal.lock", "journal.reserve", "live/", "wake/"]
    expected += [".seg", ".snapshot"] if name == "journal" else ["jobs.db-wal", "jobs.db-shm"]
    for part in expected:
        assert part in found


async def test_torn_end_that_is_kept_is_for_its_owner_alone(tmp_path: Path, umask) -> None:
    path = tmp_path / "journal"
    async with opened(FileStorage(path)) as storage:
        await append_synced(storage, "a")
    with segments(path)[0].open("ab") as file:
        file.write(b"torn")
    reboot(path)
    assert await names_in(FileStorage(path)) == ["a"]
    modes = modes_below(tmp_path)
    assert any(name.endswith(".torn") for name in modes)
    assert are_private(modes), modes


@each_backend
async def test_what_the_replay_tool_writes_is_for_its_owner_alone(
    tmp_path: Path, umask, name, capsys
) -> None:
    async with opened(BACKENDS[name](tmp_path / name)) as storage:
        await append(storage, "a")
    for target in BACKENDS:
        assert run("recover", tmp_path / name, tmp_path / f"recovered-{target}") == 1
    assert run("export", tmp_path / name, "--output", tmp_path / "exported.jsonl") == 0
    modes = modes_below(tmp_path)
    assert {"recovered-journal", "recovered-jobs.db", "exported.jsonl"} <= set(modes)
    assert are_private(modes), modes


def run(*arguments: object) -> int:
    try:
        return replay.main([str(argument) for argument in arguments])
    except SystemExit as error:
        return int(error.code or 0)


# What was there before.


@each_backend
async def test_folder_that_is_to_hold_a_journal_is_made_private(tmp_path: Path, name) -> None:
    """Its owner made it with the usual umask; nobody else has business in it from now on."""
    folder = tmp_path / ("journal" if name == "journal" else "jobs.db-omniq")
    folder.mkdir()
    folder.chmod(0o775 if name == "journal" else 0o700)
    async with opened(BACKENDS[name](tmp_path / name)):
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700


def exposed_parts(tmp_path: Path, name: str) -> list[Path]:
    if name == "journal":
        return [tmp_path / "journal"]
    return [tmp_path / part for part in ("jobs.db", "jobs.db-wal", "jobs.db-shm", "jobs.db-omniq")]


@each_backend
@pytest.mark.parametrize("bits", [0o002, 0o003, 0o007, 0o077])
async def test_journal_that_everybody_may_change_is_refused(tmp_path: Path, name, bits) -> None:
    async with opened(BACKENDS[name](tmp_path / name)) as storage:
        await append(storage, "a")
    for part in exposed_parts(tmp_path, name):
        part.chmod(0o700 | bits)
        with pytest.raises(StorageError, match=rf"{part} may be changed by everybody.*chmod o-w"):
            await BACKENDS[name](tmp_path / name).open()
        assert await names_in(BACKENDS[name](tmp_path / name, read_only=True)) == ["a"]
        part.chmod(0o700)
    assert await names_in(BACKENDS[name](tmp_path / name)) == ["a"]


@each_backend
async def test_journal_that_a_group_may_change_is_warned_of(tmp_path: Path, name, caplog) -> None:
    async with opened(BACKENDS[name](tmp_path / name)) as storage:
        await append(storage, "a")
    for part in exposed_parts(tmp_path, name):
        part.chmod(0o770)
        caplog.clear()
        assert await names_in(BACKENDS[name](tmp_path / name)) == ["a"]
        (record,) = caplog.records
        assert (record.action, str(part) in record.getMessage()) == ("journal_exposed", True)
        part.chmod(0o700)


@each_backend
async def test_journal_of_another_user_is_warned_of(
    tmp_path: Path, name, caplog, monkeypatch
) -> None:
    """Root is everybody's owner anyway, and reading changes nothing."""
    async with opened(BACKENDS[name](tmp_path / name)) as storage:
        await append(storage, "a")
    owner = os.geteuid()
    monkeypatch.setattr(os, "geteuid", lambda: owner + 1)
    assert await names_in(BACKENDS[name](tmp_path / name, read_only=True)) == ["a"]
    assert caplog.records == []
    await names_in(BACKENDS[name](tmp_path / name))
    actions = {record.action for record in caplog.records}
    assert actions == (set() if owner == 0 else {"journal_exposed"})
    stat_of = Path.stat

    def belongs_to_someone(path, **options):
        status = list(stat_of(path, **options))
        status[stat.ST_UID] = 4711
        return os.stat_result(status)

    monkeypatch.setattr("omniq.host.Path.stat", belongs_to_someone)
    await names_in(BACKENDS[name](tmp_path / name))
    assert f"chown {owner + 1} " in caplog.text
    assert "user 4711, who owns it" in caplog.text


# What is not what its name says.


@pytest.mark.parametrize("plant", ["link", "dangling link", "pipe", "folder", "socket"])
async def test_nothing_but_a_file_is_taken_for_a_segment(tmp_path: Path, plant) -> None:
    path = tmp_path / "journal"
    async with opened(FileStorage(path)) as storage:
        await append(storage, "a")
    (segment,) = segments(path)
    elsewhere = tmp_path / "elsewhere"
    segment.rename(elsewhere)
    plant_at(segment, plant, elsewhere)
    before = elsewhere.read_bytes()
    for read_only in (True, False):
        with pytest.raises(StorageError):
            await names_in(FileStorage(path, read_only=read_only))
    assert elsewhere.read_bytes() == before


@pytest.mark.parametrize(
    "name", ["journal.lock", "journal.reserve", "00000000000000000001.seg.tmp"]
)
async def test_links_are_not_followed_out_of_the_journal(tmp_path: Path, name) -> None:
    path, elsewhere = tmp_path / "journal", tmp_path / "precious"
    elsewhere.write_text("mine", encoding="utf-8")
    path.mkdir(mode=0o700)
    plant_at(path / name, "link", elsewhere)
    with pytest.raises((StorageError, UnsupportedFormat)):
        await FileStorage(path).open()
    assert elsewhere.read_text(encoding="utf-8") == "mine"


async def test_torn_end_is_not_written_through_a_link(tmp_path: Path) -> None:
    path, elsewhere = tmp_path / "journal", tmp_path / "precious"
    elsewhere.write_text("mine", encoding="utf-8")
    async with opened(FileStorage(path)) as storage:
        await append_synced(storage, "a")
    (segment,) = segments(path)
    size = segment.stat().st_size
    with segment.open("ab") as file:
        file.write(b"torn")
    reboot(path)
    plant_at(path / f"{segment.stem}.{size}.torn.tmp", "link", elsewhere)
    with pytest.raises(StorageError):
        await FileStorage(path).open()
    assert elsewhere.read_text(encoding="utf-8") == "mine"


def plant_at(place: Path, kind: str, elsewhere: Path) -> None:
    match kind:
        case "link":
            place.symlink_to(elsewhere)
        case "dangling link":
            place.symlink_to(elsewhere.with_name("nowhere"))
        case "pipe":
            os.mkfifo(place)
        case "folder":
            place.mkdir()
        case "socket":
            os.mknod(place, 0o600 | stat.S_IFSOCK)


@each_backend
async def test_copy_that_an_owner_made_readable_for_others_stays_as_it_is(
    tmp_path: Path, name
) -> None:
    """To read is not to change: who may read a journal is its owner's business."""
    async with opened(BACKENDS[name](tmp_path / name)) as storage:
        await append(storage, "a")
    path = tmp_path / name
    path.chmod(0o755)
    assert await names_in(BACKENDS[name](path)) == ["a"]
    assert stat.S_IMODE(path.stat().st_mode) == 0o755
