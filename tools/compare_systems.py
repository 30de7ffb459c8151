"""The queues that `compare.py` measures, each behind the same few calls.

Each is used as its own documentation shows, with the settings that `settings` names. The job does
nothing and takes a text of 90 characters. What is imported late is only there where it is
installed.
"""

from __future__ import annotations

import asyncio
import importlib
import shutil
import sys
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path
from typing import Any

PAYLOAD = "x" * 90
PRODUCERS = 100
BULK = 1000
RAN: list[None] = []  # an entry for each job that ran in this process


async def noop(payload: str) -> None:
    """Do nothing."""
    del payload
    RAN.append(None)


class System:
    """A queue on something that is empty, at an address: a folder or a server.

    `has_bulk` and `has_results` say whether it has calls for that; those it lacks are never made.
    """

    packages: tuple[str, ...] = ()
    settings = ""
    has_bulk = True
    has_results = True

    def __init__(self, address: str) -> None:
        self.address = address

    async def open(self) -> None:
        """Connect."""

    async def close(self) -> None:
        """Disconnect."""

    async def reset(self) -> None:
        """Forget everything, before `open`."""

    async def enqueue(self) -> Any:
        """Enqueue a job, and return what its result is asked for with."""
        raise NotImplementedError

    async def enqueue_many(self, count: int) -> None:
        """Enqueue jobs in one call."""
        raise NotImplementedError

    async def result(self, handle: Any) -> None:
        """Wait until a job has ended, and its result is here."""
        raise NotImplementedError

    async def drain(self, count: int) -> None:
        """Run so many jobs in this process, and return when the last one has run."""
        working = asyncio.create_task(self.work())
        while len(RAN) < count and not working.done():  # noqa: ASYNC110 - the same for all
            await asyncio.sleep(0.001)
        working.cancel()
        await asyncio.gather(working, return_exceptions=True)

    async def work(self) -> None:
        """Work until this is cancelled."""
        raise NotImplementedError


class OmniQ(System):
    """OmniQ on the folder or database at the address."""

    settings = "concurrency=1000 to drain, 10 else"
    durability = "fsync"

    async def reset(self) -> None:
        path = Path(self.address)
        for folder in (path, path.with_name(f"{path.name}-omniq")):
            shutil.rmtree(folder, ignore_errors=True)
        for suffix in ("", "-wal", "-shm"):
            if (file := path.with_name(f"{path.name}{suffix}")).is_file():
                file.unlink()

    async def open(self) -> None:
        self.oq = importlib.import_module("omniq").AsyncOmniQ(
            self.address, durability=self.durability
        )
        self.noop = self.oq.task(name="noop")(noop)
        await self.oq.open()

    async def close(self) -> None:
        await self.oq.close()

    async def enqueue(self) -> Any:
        return await self.noop.enqueue(PAYLOAD)

    async def enqueue_many(self, count: int) -> None:
        await self.noop.enqueue_many([(PAYLOAD,)] * count)

    async def result(self, handle: Any) -> None:
        await handle.result(timeout=30)

    async def drain(self, count: int) -> None:  # noqa: ARG002 - it knows when it is done
        await self.oq.worker(concurrency=BULK).drain()

    async def work(self) -> None:
        await self.oq.worker().run()


class OmniQUnsynced(OmniQ):
    """OmniQ that does not wait for the disk, as Redis does not by default."""

    durability = "os"


class Saq(System):
    """SAQ on Redis."""

    packages = ("saq",)
    settings = "concurrency=100"
    has_bulk = False

    async def reset(self) -> None:
        await flush_redis(self.address)

    async def open(self) -> None:
        self.queue = importlib.import_module("saq").Queue.from_url(self.address)
        await self.queue.connect()

    async def close(self) -> None:
        await self.queue.disconnect()

    async def enqueue(self) -> Any:
        return await self.queue.enqueue("noop", payload=PAYLOAD)

    async def result(self, handle: Any) -> None:
        await handle.refresh(until_complete=30)

    async def work(self) -> None:
        async def noop_of_saq(_context: Any, *, payload: str) -> None:
            await noop(payload)

        worker = importlib.import_module("saq.worker").Worker(
            self.queue, [("noop", noop_of_saq)], concurrency=100
        )
        await worker.start()


class Arq(System):
    """Arq on Redis."""

    packages = ("arq",)
    settings = "max_jobs=100, poll_delay=0.001 (its default: 0.5 s)"
    has_bulk = False

    async def reset(self) -> None:
        await flush_redis(self.address)

    async def open(self) -> None:
        connections = importlib.import_module("arq.connections")
        self.redis_settings = connections.RedisSettings.from_dsn(self.address)
        self.pool = await connections.create_pool(self.redis_settings)

    async def close(self) -> None:
        await self.pool.aclose()

    async def enqueue(self) -> Any:
        return await self.pool.enqueue_job("noop", PAYLOAD)

    async def result(self, handle: Any) -> None:
        await handle.result(timeout=30, poll_delay=0.0005)

    async def work(self) -> None:
        worker_module = importlib.import_module("arq.worker")

        async def noop_of_arq(_context: Any, payload: str) -> None:
            await noop(payload)

        worker = worker_module.Worker(
            [worker_module.func(noop_of_arq, name="noop")],
            redis_settings=self.redis_settings,
            max_jobs=100,
            poll_delay=0.001,
            handle_signals=False,
        )
        try:
            await worker.async_run()
        finally:
            await worker.close()


class Huey(System):
    """Huey on SQLite: its calls block, so producers are threads."""

    packages = ("huey",)
    settings = "fsync=True, 4 threads, initial_delay=0.001, max_delay=0.001"
    has_bulk = False

    async def reset(self) -> None:
        for suffix in ("", "-wal", "-shm"):
            Path(f"{self.address}{suffix}").unlink(missing_ok=True)  # noqa: ASYNC240 - nobody waits

    async def open(self) -> None:
        huey = importlib.import_module("huey")
        self.huey = huey.SqliteHuey(filename=self.address, fsync=True, timeout=60)

        def noop_of_huey(payload: str) -> bool:
            del payload
            RAN.append(None)
            return True  # None is not stored

        self.noop = self.huey.task(name="noop")(noop_of_huey)
        self.threads = ThreadPoolExecutor(PRODUCERS)

    async def close(self) -> None:
        self.threads.shutdown()
        self.huey.storage.close()

    async def enqueue(self) -> Any:
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self.threads, self.noop, PAYLOAD)

    async def result(self, handle: Any) -> None:
        await asyncio.to_thread(handle.get, blocking=True, timeout=30, backoff=1, max_delay=0.0005)

    async def work(self) -> None:
        consumer = self.huey.create_consumer(
            workers=4, periodic=False, initial_delay=0.001, max_delay=0.001
        )
        consumer.start()
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.to_thread(consumer.stop, graceful=True)


class PgQueuer(System):
    """PgQueuer on PostgreSQL; it stores no results, only that a job has ended."""

    packages = ("pgqueuer", "asyncpg")
    settings = "batch_size=100, a pool of 10 connections; its log of jobs in place of results"
    has_results = False

    async def reset(self) -> None:
        await self.open()
        try:
            await self.queries.uninstall()
        except Exception as error:  # noqa: BLE001 - there is nothing yet, the first time
            print(error, file=sys.stderr)
        await self.queries.install()
        await self.close()

    async def open(self) -> None:
        asyncpg = importlib.import_module("asyncpg")
        pgqueuer = importlib.import_module("pgqueuer")
        self.pool = await asyncpg.create_pool(self.address, min_size=2, max_size=10)
        self.app = pgqueuer.PgQueuer.from_asyncpg_pool(self.pool)
        self.queries = importlib.import_module("pgqueuer.queries").Queries.from_asyncpg_pool(
            self.pool
        )

    async def close(self) -> None:
        await self.pool.close()

    async def enqueue(self) -> Any:
        return (await self.queries.enqueue("noop", PAYLOAD.encode()))[0]

    async def enqueue_many(self, count: int) -> None:
        await self.queries.enqueue(["noop"] * count, [PAYLOAD.encode()] * count, [0] * count)

    async def work(self) -> None:
        @self.app.entrypoint("noop")  # type: ignore[untyped-decorator] # it is imported late
        async def noop_of_pgqueuer(job: Any) -> None:
            await noop(job.payload.decode())

        await self.app.run(batch_size=100, dequeue_timeout=timedelta(seconds=5))


class Procrastinate(System):
    """Procrastinate on PostgreSQL; it stores no results."""

    packages = ("procrastinate", "psycopg")
    settings = "concurrency=10 (it fetches one job at a time)"
    has_results = False

    async def reset(self) -> None:
        psycopg = importlib.import_module("psycopg")
        connection = await psycopg.AsyncConnection.connect(self.address, autocommit=True)
        async with connection:
            await connection.execute("DROP SCHEMA public CASCADE; CREATE SCHEMA public")
        await self.open()
        await self.app.schema_manager.apply_schema_async()
        await self.close()

    async def open(self) -> None:
        procrastinate = importlib.import_module("procrastinate")
        connector = procrastinate.PsycopgConnector(conninfo=self.address, max_size=10)
        self.app = procrastinate.App(connector=connector)
        self.noop = self.app.task(name="noop")(noop)
        await self.app.open_async()

    async def close(self) -> None:
        await self.app.close_async()

    async def enqueue(self) -> Any:
        return await self.noop.defer_async(payload=PAYLOAD)

    async def enqueue_many(self, count: int) -> None:
        await self.noop.batch_defer_async(*[{"payload": PAYLOAD}] * count)

    async def work(self) -> None:
        await self.app.run_worker_async(concurrency=10, install_signal_handlers=False)


async def flush_redis(address: str) -> None:
    """Forget everything in a Redis server that `compare.py` has started."""
    redis = importlib.import_module("redis.asyncio").from_url(address)
    await redis.flushall()
    await redis.aclose()


SYSTEMS: dict[str, type[System]] = {
    "omniq": OmniQ,
    "omniq-os": OmniQUnsynced,
    "saq": Saq,
    "arq": Arq,
    "huey": Huey,
    "pgqueuer": PgQueuer,
    "procrastinate": Procrastinate,
}
