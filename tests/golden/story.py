"""What the golden journals of format version 1 say: every kind of event, bare and in full."""

from omniq.core import events as ev
from omniq.core.retry import RetryRule

START = 1_780_000_000_000_000
SECOND = 1_000_000
RULE = RetryRule(5, 2 * SECOND, 3.0, 60 * SECOND, 0.5, ("m:A",), ("m:B",))
ERROR = ev.ErrorRecord("ValueError", "no: é", "Traceback\n", retryable=False)
PAYLOAD = b"\x92\x91\x01\x81\xa1x\x02"

STORY: list[tuple[int, str, list[ev.Event]]] = [
    (0, "client@one:1", [
        ev.TaskEnqueued("a", "m:f", "default", PAYLOAD),
        ev.TaskEnqueued(
            "b", "m:g", "images", b"\x00" * 300, "cloudpickle", 7, START + 9 * SECOND,
            60 * SECOND, RULE, 3600 * SECOND, "b", 5 * SECOND,
        ),
        ev.TaskEnqueued("c", "m:f", "default", PAYLOAD, retry=RetryRule(0)),
    ]),
    (1, "w1@one:2", [
        ev.WorkerJoined("w1", "one", 2, "boot", 30 * SECOND),
        ev.WorkerJoined("w2", "two", 3, "other", 10 * SECOND, ("images", "default"), 4),
    ]),
    (2, "w1@one:2", [ev.TaskStarted("a", 1, "w1"), ev.TaskStarted("c", 1, "w2")]),
    (3, "w1@one:2", [
        ev.TaskProgressed("a", 1, "w1", 0.5, "half"),
        ev.TaskRetried("a", 1, "w1", ev.ErrorRecord("OSError", "again"), START + 4 * SECOND),
    ]),
    (4, "w2@two:3", [ev.TaskFailed("c", 1, "w2", ERROR), ev.WorkerRenewed("w2", START + 14)]),
    (5, "client@one:1", [ev.TaskRequeued("c", "once more"), ev.QueuePaused("images")]),
    (6, "w1@one:2", [ev.TaskStarted("a", 2, "w1"), ev.TaskStarted("c", 1, "w1")]),
    (7, "w1@one:2", [ev.TaskSucceeded("a", 2, "w1", b"\x2a", "cloudpickle")]),
    (8, "client@one:1", [ev.TaskCancelRequested("c", "enough"), ev.QueueResumed("images")]),
    (9, "w1@one:2", [ev.TaskCancelled("c", "enough", 1, "w1"), ev.TaskLate("c", 1, "w2", "x")]),
    (10, "w2@two:3", [ev.TaskStarted("b", 1, "w2")]),
    (11, "w2@two:3", [ev.TaskReleased("b", 1, "w2", "stops", START + 20 * SECOND)]),
    (12, "w2@two:3", [ev.WorkerLost("w2", "its process 3 on two died"), ev.WorkerLeft("w1")]),
    (13, "w3@one:4", [ev.WorkerJoined("w3", "one", 4, "boot", 30 * SECOND, (), 2)]),
    (14, "client@one:1", [
        ev.TaskEnqueued("d", "m:f", "default", b"\x92\x90\x80", result_ttl_us=SECOND),
        ev.TaskEnqueued("e", "m:f", "default", b"\x92\x90\x80"),
    ]),
    (15, "w3@one:4", [ev.TaskStarted("d", 1, "w3"), ev.TaskStarted("e", 1, "w3")]),
    (16, "w3@one:4", [
        ev.TaskSucceeded("d", 1, "w3", b"\xc0"), ev.TaskRetried("e", 1, "w3", ERROR, 0),
    ]),
    (18, "w3@one:4", [ev.ResultExpired(("d",)), ev.TaskCancelled("e")]),
]  # fmt: skip
