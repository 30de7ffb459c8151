"""Bad input: a named error that says what, where and what to do, early, and nothing is written."""

import os
import sqlite3
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from pathlib import Path

import pytest

from omniq import (
    AsyncOmniQ,
    ConfigError,
    OmniqError,
    PayloadTooLarge,
    RetryPolicy,
    SerializationError,
    Settings,
    StorageError,
    TaskNotAllowed,
    TaskStatus,
    UnsupportedFormat,
)
from tests.app import jobs

NAIVE = datetime(2030, 1, 1)


async def nothing_was_written(oq: AsyncOmniQ) -> bool:
    return (await oq.storage.head()).seq == 0


async def test_an_argument_that_cannot_be_encoded_is_named(oq: AsyncOmniQ) -> None:
    @oq.task
    async def keep(first: object, *, second: object = None) -> None: ...

    with pytest.raises(SerializationError, match="argument 'first' of .*keep.*object"):
        await keep.enqueue(object())
    with pytest.raises(SerializationError, match="argument 'second'"):
        await keep.enqueue(1, second=[object()])
    assert await nothing_was_written(oq)


async def test_an_argument_of_the_wrong_type_is_refused_when_enqueued(oq: AsyncOmniQ) -> None:
    with pytest.raises(SerializationError, match=r"argument 'b' of tests.app.jobs:add"):
        await oq.enqueue(jobs.add, 1, b="two")  # type: ignore[arg-type]
    assert await nothing_was_written(oq)


@pytest.mark.parametrize(
    ("args", "kwargs"), [((), {}), ((1, 2, 3), {}), ((1,), {"c": 3}), ((1,), {"a": 1})]
)
async def test_a_call_that_does_not_fit_is_refused(oq: AsyncOmniQ, args, kwargs) -> None:
    with pytest.raises(SerializationError, match="cannot be called like this"):
        await oq.enqueue(jobs.add, *args, **kwargs)
    assert await nothing_was_written(oq)


async def test_a_naive_datetime_is_refused_wherever_it_is(oq: AsyncOmniQ) -> None:
    @oq.task
    async def keep(value: object) -> None: ...

    for value in (NAIVE, [NAIVE], {"at": NAIVE}, ({"deep": (NAIVE,)},)):
        with pytest.raises(SerializationError, match="naive datetime"):
            await keep.enqueue(value)
    with pytest.raises(ConfigError, match=r"eta is a naive datetime .*time zone"):
        await keep.options(eta=NAIVE).enqueue(1)
    assert await nothing_was_written(oq)


async def test_a_payload_over_the_limit_is_refused_with_the_limit(location: str) -> None:
    async with AsyncOmniQ(location, max_payload_bytes=1000) as app:

        @app.task
        async def keep(value: bytes) -> None: ...

        await keep.enqueue(bytes(900))
        with pytest.raises(PayloadTooLarge, match="max_payload_bytes=1000"):
            await keep.enqueue(bytes(1000))
        assert (await app.stats()).by_status[TaskStatus.PENDING] == 1


async def test_a_result_over_the_limit_fails_the_task(location: str) -> None:
    async with AsyncOmniQ(location, max_payload_bytes=1000) as app:

        @app.task
        async def produce() -> bytes:
            return bytes(2000)

        handle = await produce.enqueue()
        await app.worker().drain()
        result = await app.get_result(handle.id)
        assert result is not None
        assert result.error is not None
        assert "max_payload_bytes=1000" in result.error.message


async def test_only_functions_with_a_name_that_others_find_are_tasks(oq: AsyncOmniQ) -> None:
    def inside() -> None: ...

    for function in (lambda: None, inside):
        with pytest.raises(TaskNotAllowed, match="another process"):
            await oq.enqueue(function)
    with pytest.raises(TaskNotAllowed, match="not a function"):
        await oq.enqueue(3)  # type: ignore[arg-type]
    with pytest.raises(TaskNotAllowed, match="another process"):
        oq.task(executor="process")(inside)
    assert await nothing_was_written(oq)


async def test_a_generator_is_no_task_as_nobody_would_go_through_it(oq: AsyncOmniQ) -> None:
    def count() -> Iterator[int]:
        yield 1

    async def count_async() -> AsyncIterator[int]:
        yield 1

    for function in (count, count_async):
        with pytest.raises(TaskNotAllowed, match=f"{function.__name__}' is a generator"):
            oq.task(function)


@pytest.mark.parametrize("name", ["os:system", "nowhere:f", "os", "os:", ":f", ""])
async def test_a_name_outside_the_allowed_modules_is_refused(oq: AsyncOmniQ, name: str) -> None:
    with pytest.raises(TaskNotAllowed, match="task_modules"):
        await oq.enqueue(name, "true")
    assert await nothing_was_written(oq)


async def test_a_function_that_is_gone_is_refused_when_enqueued(location: str) -> None:
    async with AsyncOmniQ(location, task_modules=("tests.app",)) as app:
        for name in ("tests.app.jobs:gone", "tests.app.gone:f", "tests.app.jobs:add.x"):
            with pytest.raises(TaskNotAllowed, match="cannot be found"):
                await app.enqueue(name)
        assert await nothing_was_written(app)


async def test_a_worker_leaves_alone_what_it_has_no_function_for(tmp_path: Path) -> None:
    async with AsyncOmniQ(tmp_path / "j") as first:
        gone = await first.task(name="gone")(jobs.add).enqueue(1)
        system = await first.task(name="os:system")(jobs.add).enqueue(1)
        here = await first.enqueue(jobs.add, 1)
        async with AsyncOmniQ(tmp_path / "j") as second:
            second.task(jobs.add)
            await second.worker().drain()
            assert await second.handle(here.id).result() == 3
            assert await second.handle(gone.id).status() is TaskStatus.PENDING
            assert await second.handle(system.id).status() is TaskStatus.PENDING
            second.task(name="gone")(jobs.add)
            await second.worker().drain()
            assert await second.handle(gone.id).result() == 3


async def test_stored_arguments_that_no_longer_fit_fail_the_task_without_a_retry(
    tmp_path: Path,
) -> None:
    async def job(a: str) -> None: ...

    async with AsyncOmniQ(tmp_path / "j") as app:
        handle = await app.task(name="job")(job).enqueue("text")

        @app.task(name="job")
        async def job(a: int) -> None: ...  # the next version of it

        await app.worker().drain()
        result = await app.get_result(handle.id)
        assert result is not None
        assert (result.status, result.attempts) == (TaskStatus.FAILED, 1)
        assert result.error is not None
        assert "argument 'a' of" in result.error.message


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"delay": -1}, "delay"),
        ({"delay": "10"}, "delay"),
        ({"delay": float("nan")}, "delay"),
        ({"delay": 1, "eta": datetime.max}, "either delay or eta"),
        ({"eta": 5}, "eta must be a datetime"),
        ({"interval": 0}, "interval must be longer than 0"),
        ({"timeout": 0}, "timeout must be longer than 0"),
        ({"timeout": timedelta(seconds=-1)}, "timeout"),
        ({"priority": 1.5}, "priority"),
        ({"priority": 10**9}, "priority"),
        ({"queue": ""}, "queue"),
        ({"queue": "q" * 300}, "queue"),
        ({"max_retries": -1}, "max_retries"),
        ({"max_retries": True}, "max_retries"),
        ({"retry": RetryPolicy(), "max_retries": 1}, "either retry or max_retries"),
        ({"colour": "red"}, "no option colour"),
    ],
)
async def test_a_bad_option_is_refused_at_once(oq: AsyncOmniQ, options, says) -> None:
    task = oq.task(jobs.add)
    with pytest.raises(ConfigError, match=says):
        task.options(**options)
    with pytest.raises(ConfigError, match=says):
        oq.options(**options)


@pytest.mark.parametrize(
    ("policy", "says"),
    [
        ({"max_retries": -1}, "max_retries"),
        ({"base_delay": -1}, "base_delay"),
        ({"factor": 0.5}, "factor"),
        ({"jitter": 1.5}, "jitter"),
        ({"max_delay": float("inf")}, "max_delay"),
        ({"retry_on": ("OSError",)}, "retry_on"),
        ({"never_on": (3,)}, "never_on"),
    ],
)
def test_a_bad_retry_policy_is_refused(policy, says) -> None:
    with pytest.raises(ConfigError, match=says):
        RetryPolicy(**policy)


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("OMNIQ_BACKEND", "redis"),
        ("OMNIQ_DEFAULT_TIMEOUT", "soon"),
        ("OMNIQ_DEFAULT_TIMEOUT", "0"),
        ("OMNIQ_DEFAULT_MAX_RETRIES", "-1"),
        ("OMNIQ_DEFAULT_MAX_RETRIES", "1.5"),
        ("OMNIQ_RESULT_TTL", "-5"),
        ("OMNIQ_SERIALIZER", "pickle"),
        ("OMNIQ_LOG_LEVEL", "LOUD"),
        ("OMNIQ_DURABILITY", "maybe"),
        ("OMNIQ_TASK_MODULES", "os;sys"),
        ("OMNIQ_MAX_PAYLOAD_BYTES", "0"),
    ],
)
def test_a_bad_variable_is_an_error_that_names_it(variable: str, value: str) -> None:
    with pytest.raises(ConfigError, match=f"{variable}='{value}'"):
        Settings.from_env({variable: value})


def test_an_argument_wins_over_the_environment_and_that_over_the_default(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert Settings.from_env({}).durability == "fsync"
    monkeypatch.setenv("OMNIQ_DURABILITY", "os")
    monkeypatch.setenv("OMNIQ_DEFAULT_MAX_RETRIES", "7")
    monkeypatch.setenv("OMNIQ_TASK_MODULES", "app.tasks, other")
    monkeypatch.setenv("OMNIQ_RESULT_TTL", "none")
    monkeypatch.setenv("OMNIQ_DEFAULT_TIMEOUT", "1.5")
    app = AsyncOmniQ("memory://", default_max_retries=1)
    assert app.settings.durability == "os"
    assert app.settings.default_max_retries == 1
    assert app.settings.task_modules == ("app.tasks", "other")
    assert app.settings.result_ttl is None
    assert app.settings.default_timeout == 1.5


def test_without_an_argument_the_environment_says_where_the_journal_is(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("OMNIQ_DB_URL", f"sqlite:///{tmp_path}/a.db")
    assert AsyncOmniQ().storage.location == f"{tmp_path}/a.db"
    monkeypatch.delenv("OMNIQ_DB_URL")
    monkeypatch.setenv("OMNIQ_BACKEND", "sqlite")
    monkeypatch.setenv("OMNIQ_BASE_DIR", str(tmp_path))
    assert AsyncOmniQ().storage.location == str(tmp_path / "omniq.db")
    monkeypatch.setenv("OMNIQ_BACKEND", "file")
    assert AsyncOmniQ().storage.location == str(tmp_path)
    monkeypatch.setenv("OMNIQ_BACKEND", "memory")
    assert AsyncOmniQ().storage.location == "memory://"


@pytest.mark.parametrize("location", ["", "  ", "redis://localhost", "sqlite://", "file://host/x"])
def test_a_location_that_means_nothing_is_refused(location: str) -> None:
    with pytest.raises(ConfigError):
        AsyncOmniQ(location)


def test_urls_and_paths_name_the_same_places() -> None:
    assert AsyncOmniQ("sqlite:///jobs.db").storage.location == "jobs.db"
    assert AsyncOmniQ("sqlite:////var/jobs.db").storage.location == "/var/jobs.db"
    assert AsyncOmniQ("file:///var/jobs").storage.location == "/var/jobs"
    assert AsyncOmniQ(Path("jobs.sqlite3")).storage.location == "jobs.sqlite3"
    assert AsyncOmniQ("jobs").storage.location == "jobs"


@pytest.mark.parametrize("name", ["missing/journal", "missing/jobs.db"])
async def test_a_missing_folder_is_not_made(tmp_path: Path, name: str) -> None:
    with pytest.raises(StorageError, match="there is no folder .*missing. Next: create it"):
        await AsyncOmniQ(tmp_path / name).open()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["file/journal", "file/jobs.db"])
async def test_a_path_that_the_system_refuses_is_said(tmp_path: Path, name: str) -> None:
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(StorageError, match="Not a directory"):
        await AsyncOmniQ(tmp_path / name).open()
    assert (tmp_path / "file").read_text() == "not a folder"


@contextmanager
def without_rights(folder: Path):
    """Take the right to write in a folder away, from root by being somebody else."""
    folder.chmod(0o500)
    was_root = os.geteuid() == 0
    if was_root:
        os.seteuid(65534)
    try:
        yield
    finally:
        if was_root:
            os.seteuid(0)
        folder.chmod(0o700)


@pytest.mark.parametrize("name", ["journal", "jobs.db"])
async def test_a_path_without_permission_is_said(tmp_path: Path, name: str) -> None:
    folder = tmp_path / "locked"
    folder.mkdir()
    with without_rights(folder), pytest.raises(StorageError, match="Permission denied"):
        await AsyncOmniQ(folder / name).open()
    assert list(folder.iterdir()) == []


async def test_a_file_that_is_no_journal_is_kept(tmp_path: Path) -> None:
    for name in ("notes", "notes.db"):
        path = tmp_path / name
        path.write_text("buy milk " * 200)
        with pytest.raises(UnsupportedFormat, match="not touched"):
            await AsyncOmniQ(path).open()
        assert path.read_text() == "buy milk " * 200


async def test_a_database_of_something_else_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "app.db"
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE users (name TEXT)")
        connection.execute("INSERT INTO users VALUES ('ada')")
    connection.close()
    before = path.read_bytes()
    with pytest.raises(UnsupportedFormat, match="something else"):
        await AsyncOmniQ(path).open()
    assert path.read_bytes() == before


async def test_every_error_is_an_omniq_error_and_bad_values_are_value_errors() -> None:
    assert issubclass(ConfigError, OmniqError)
    assert issubclass(ConfigError, ValueError)
    assert issubclass(SerializationError, ValueError)


async def test_an_app_that_is_open_on_another_loop_says_so(tmp_path: Path) -> None:
    import asyncio

    app = AsyncOmniQ(tmp_path / "j")
    await app.open()
    with pytest.raises(ConfigError, match="another event loop"):
        await asyncio.to_thread(lambda: asyncio.run(app.stats()))
    await app.close()


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"lease": 0}, "lease must be at least"),
        ({"concurrency": 0}, "concurrency"),
        ({"queues": "default"}, "queues"),
        ({"shutdown_timeout": -1}, "shutdown_timeout"),
    ],
)
async def test_a_bad_option_of_a_worker_is_refused(oq: AsyncOmniQ, options, says) -> None:
    with pytest.raises(ConfigError, match=says):
        oq.worker(**options)


@pytest.mark.parametrize("queue", [5, "", "\udc80"])
async def test_a_queue_that_no_journal_could_hold_is_refused(oq: AsyncOmniQ, queue) -> None:
    for call in (oq.pause, oq.resume):
        with pytest.raises(ConfigError, match="queue"):
            await call(queue)
    with pytest.raises(ConfigError, match="queue"):
        oq.options(queue=queue)
    with pytest.raises(TaskNotAllowed, match="name"):
        oq.task(name=queue)(jobs.add)
    assert await nothing_was_written(oq)


async def test_a_reason_that_is_no_text_is_written_as_text(tmp_path: Path) -> None:
    async with AsyncOmniQ(tmp_path / "j") as app:
        handle = await app.enqueue(jobs.add, 1)
        assert await handle.cancel(404)  # type: ignore[arg-type]
    async with AsyncOmniQ(tmp_path / "j") as app:
        assert await app.handle(handle.id).status() is TaskStatus.CANCELLED


async def test_two_functions_under_one_name_are_refused(oq: AsyncOmniQ) -> None:
    @oq.task(name="mail")
    async def send_mail() -> None: ...

    with pytest.raises(ConfigError, match="two functions are registered as 'mail'"):

        @oq.task(name="mail")
        async def send_letter() -> None: ...

    @oq.task(name="mail")
    async def send_mail() -> int:  # noqa: F811 - the same one, defined anew
        return 1


# What a person gets wrong by a letter, or by a type that no checker saw.


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        (lambda oq: RetryPolicy(factor="2"), "factor must be between 1 and 1000, not '2'"),
        (lambda oq: RetryPolicy(jitter=None), "jitter must be between 0 and 1, not None"),
        (lambda oq: RetryPolicy(retry_on=ValueError), r"retry_on must be a tuple.*ValueError"),
        (lambda oq: RetryPolicy(never_on=5), "never_on must be a tuple of exception classes.*5"),
        (lambda oq: AsyncOmniQ(5), "the journal's location is 5"),
        (lambda oq: AsyncOmniQ("memory://", settings=5), "settings must be Settings, not 5"),
        (lambda oq: AsyncOmniQ("memory://", task_modules=(5,)), "task_modules holds 5"),
        (lambda oq: AsyncOmniQ("memory://", archive_url=5), "archive_url must be text, not 5"),
        (lambda oq: Settings(db_url=5), "db_url must be text, not 5"),
        (lambda oq: oq.worker(queues=5), "queues must be a list of names, not 5"),
        (lambda oq: oq.worker(concurency=5), "no option concurency.*: did you mean concurrency"),
        (lambda oq: oq.task(priorty=5), "no option priorty.*: did you mean priority"),
        (lambda oq: oq.options(dealy=5), "no option dealy.*: did you mean delay"),
        (lambda oq: oq.task(something=5), "no option something. Next: use one of queue, priority"),
        (lambda oq: AsyncOmniQ("memory://", durabilty="os"), "durabilty.*: did you mean durab"),
    ],
)
async def test_wrong_argument_is_refused_with_its_name_and_value(
    oq: AsyncOmniQ, wrong, says
) -> None:
    with pytest.raises(ConfigError, match=says):
        wrong(oq)


async def test_calls_that_are_no_collection_are_refused(oq: AsyncOmniQ) -> None:
    with pytest.raises(ConfigError, match="calls must be a list of tuples.*, not 5"):
        await oq.task(jobs.add).enqueue_many(5)  # type: ignore[arg-type]
    assert await nothing_was_written(oq)


async def test_lambda_is_refused_with_what_to_do_instead(oq: AsyncOmniQ) -> None:
    with pytest.raises(TaskNotAllowed, match="a lambda.*Next: write it as a function with def"):
        await oq.enqueue(lambda: 1)


async def test_call_in_place_of_a_function_is_told_apart(oq: AsyncOmniQ) -> None:
    call = jobs.add_async(1)
    try:
        with pytest.raises(TaskNotAllowed, match=r"is a call.*pass the function.*enqueue\(f, 1\)"):
            await oq.enqueue(call)  # type: ignore[call-overload]
    finally:
        call.close()


async def test_waiting_too_long_says_where_the_task_stands(oq: AsyncOmniQ) -> None:
    handle = await oq.task(jobs.add_async).enqueue(1)
    await handle.status()  # so that the journal was read
    with pytest.raises(TimeoutError, match=r"it is PENDING.*no worker.*Next: run one"):
        await handle.result(timeout=0.001)
    with pytest.raises(TimeoutError, match="it is PENDING"):
        await oq.get_result(handle.id, wait=True, timeout=0.001)


async def test_no_timeout_and_no_result_ttl_can_be_asked_for(tmp_path: Path) -> None:
    async with AsyncOmniQ("memory://", default_timeout=5, result_ttl=60) as oq:
        limited = await oq.task(name="a")(jobs.add_async).enqueue(1)
        free = oq.task(name="b", timeout=None, result_ttl=None)(jobs.add_async)
        tasks = (await oq.engine()).storage
        handles = [limited, await free.enqueue(1), await free.options(timeout=7).enqueue(1)]
        found = [(await tasks.read_task(handle.id))[0][2] for handle in handles]
        assert [event.timeout_us for event in found] == [5_000_000, 0, 7_000_000]
        assert [event.result_ttl_us for event in found] == [60_000_000, 0, 0]
