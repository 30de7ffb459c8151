"""Every backend keeps the contract of `BaseStorage`, small segments and all."""

from omniq.storage.file import FileStorage
from omniq.storage.memory import MemoryStorage
from omniq.storage.sqlite import SQLiteStorage
from omniq.testing import SnapshotConformance
from tests.storage.language import RoomyDisk


class TestFileStorage(SnapshotConformance):
    sees_death = True

    def make_storage(self, path):
        return FileStorage(path / "journal")


class TestFileStorageWithTinySegments(SnapshotConformance):
    sees_death = True

    def make_storage(self, path):
        return FileStorage(path / "journal", segment_bytes=1000)


class TestFileStorageThatWritesAhead(SnapshotConformance):
    sees_death = True

    def make_storage(self, path):
        return FileStorage(path / "journal", segment_bytes=1000, disk=RoomyDisk())


class TestFileStorageThatDoesNotSync(SnapshotConformance):
    sees_death = True

    def make_storage(self, path):
        return FileStorage(path / "journal", durability="os")


class TestSQLiteStorage(SnapshotConformance):
    sees_death = True

    def make_storage(self, path):
        return SQLiteStorage(path / "journal.db")


class TestSQLiteStorageThatDoesNotSync(SnapshotConformance):
    sees_death = True

    def make_storage(self, path):
        return SQLiteStorage(path / "journal.db", durability="os")


class TestMemoryStorage(SnapshotConformance):
    def make_storage(self, path):
        return MemoryStorage()
