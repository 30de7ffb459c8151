"""Archives at any fsspec URL: whole, verified, resumable, and read like the journal itself."""

import threading

import fsspec
import pytest
import zstandard

from omniq.errors import ConfigError, StorageError
from omniq.storage import archive as archives
from omniq.storage.archive import Archive, ArchiveDisk, ship
from omniq.storage.file import FileStorage
from omniq.storage.sqlite import SQLiteStorage
from tests.storage.language import append_synced, names_in, names_of, opened, read_all, tasks

SMALL = 1000  # bytes of a segment: some commits
LATER = 1 << 60


@pytest.fixture(scope="module")
def s3():
    """An S3 server on loopback, with a bucket."""
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    options = {"key": "k", "secret": "s", "endpoint_url": f"http://{host}:{port}"}
    yield options
    server.stop()


@pytest.fixture(params=["memory", "file", "s3"])
def url(request, tmp_path, monkeypatch):
    if request.param == "memory":
        fsspec.filesystem("memory").store.clear()
        return "memory://archive/jobs"
    if request.param == "file":
        return f"file://{tmp_path}/archive"
    options = request.getfixturevalue("s3")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", options["key"])
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", options["secret"])
    monkeypatch.setenv("AWS_ENDPOINT_URL", options["endpoint_url"])
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    files = fsspec.filesystem("s3", **options)
    bucket = f"b{threading.get_native_id()}-{tmp_path.name[-12:].strip('_')}".replace("_", "-")
    files.mkdir(bucket)
    return f"s3://{bucket}/jobs"


@pytest.fixture(params=["file", "sqlite"])
def storage(request, tmp_path, monkeypatch):
    if request.param == "file":
        return FileStorage(tmp_path / "journal", segment_bytes=SMALL)
    monkeypatch.setattr("omniq.storage.snapshot_rows.SEGMENT_BYTES", SMALL)
    return SQLiteStorage(tmp_path / "jobs.db")


async def write(storage, *names):
    for name in names:
        await append_synced(storage, name)


async def archived(url):
    """Return the commits in an archive, read like a journal."""
    disk = ArchiveDisk(Archive(url))
    async with opened(FileStorage("archive", read_only=True, disk=disk)) as reader:
        return await read_all(reader)


async def test_whole_segments_are_shipped_and_read_back(storage, url):
    async with opened(storage):
        await write(storage, *range(40))
        until = await ship(Archive(url), storage, before=0)
        assert 20 < until < 40
        commits = await archived(url)
        assert commits == (await read_all(storage))[:until]
        assert names_of(commits) == [str(number) for number in range(until)]


async def test_shipping_goes_on_where_it_was_broken_off(storage, url, monkeypatch):
    async with opened(storage):
        await write(storage, *range(40))
        put, calls = Archive.put, []

        def broken(self, name, data):
            calls.append(name)
            if len(calls) == 2:
                raise StorageError("the network is gone")
            put(self, name, data)

        monkeypatch.setattr(Archive, "put", broken)
        with pytest.raises(StorageError, match="network"):
            await ship(Archive(url), storage, before=0)
        first = len(await archived(url))
        await write(storage, *range(40, 60))
        until = await ship(Archive(url), storage, before=0)
        assert calls[1] == calls[2]  # only what was missing
        assert first < until == len(await archived(url))
        assert await ship(Archive(url), storage, before=0) == until


async def test_upload_that_arrives_changed_does_not_count(storage, url, monkeypatch):
    async with opened(storage):
        await write(storage, *range(40))
        archive = Archive(url)
        write_file = archive._files.pipe_file

        def flips(path, value):
            write_file(path, value[:40] + bytes([value[40] ^ 1]) + value[41:])

        monkeypatch.setattr(archive._files, "pipe_file", flips)
        with pytest.raises(StorageError, match=r"does not give back|damaged"):
            await ship(archive, storage, before=0)
        assert Archive(url).names() == []
        files, root = fsspec.core.url_to_fs(url)
        assert not files.exists(root) or files.ls(root) == []


async def test_archive_of_another_journal_is_refused(tmp_path, url):
    for name in "ab":
        async with opened(FileStorage(tmp_path / name, segment_bytes=SMALL)) as storage:
            await write(storage, *[f"{name}{number}" for number in range(30)])
            if name == "a":
                await ship(Archive(url), storage, before=0)
            else:
                with pytest.raises(StorageError, match="is not the beginning of the journal"):
                    await ship(Archive(url), storage, before=0)


async def test_what_was_dropped_is_read_from_the_archive(tmp_path, url):
    """The archive first, then what is left of the journal, as one journal."""
    async with opened(FileStorage(tmp_path / "journal", segment_bytes=SMALL)) as storage:
        await write(storage, *range(60))
        until = await ship(Archive(url), storage, before=0)
        for _ in range(2):
            bookmark = await storage.bookmark((await storage.head()).seq)
            await storage.save_snapshot(bookmark, one_part())
            await write(storage, "more")
        beginning = await storage.drop_history(before=LATER, until=until)
        assert 0 < beginning.seq <= until
        disk = ArchiveDisk(Archive(url), storage.disk)
        whole = FileStorage(storage.path, read_only=True, disk=disk)
        assert await names_in(whole) == [*map(str, range(60)), "more", "more"]


async def one_part():
    yield b"state"


async def test_history_of_a_database_is_shipped_when_it_is_old(tmp_path, url):
    async with opened(SQLiteStorage(tmp_path / "jobs.db")) as storage:
        for at in range(1, 11):
            await storage.append(tasks(at), at=at, actor="a")
        assert await ship(Archive(url), storage, before=0) == 0
        assert await ship(Archive(url), storage, before=7) == 6
        assert names_of(await archived(url)) == ["1", "2", "3", "4", "5", "6"]


@pytest.mark.parametrize("bomb", [b"\0" * 5000, zstandard.ZstdCompressor().compress(b"\0" * 5000)])
async def test_decompression_is_bounded(bomb, monkeypatch):
    monkeypatch.setattr(archives, "MAX_SEGMENT_BYTES", 4000)
    files = fsspec.filesystem("memory")
    files.store.clear()
    files.pipe_file("/bombs/00000000000000000001.seg.zst", bomb)
    with pytest.raises(StorageError, match=r"damaged|more than 4000 bytes"):
        Archive("memory://bombs").get("00000000000000000001.seg")


def test_url_that_nobody_knows_is_a_config_error():
    for url in ("nosuch://bucket/x", "s3nope://x"):
        with pytest.raises(ConfigError, match="archive_url"):
            Archive(url)


async def test_archive_is_only_read(url, tmp_path):
    disk = ArchiveDisk(Archive(url))
    with pytest.raises(StorageError, match="only read"):
        await FileStorage(tmp_path / "archive", disk=disk).open()
