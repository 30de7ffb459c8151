"""What the platform module says of the machine."""

import errno
import os
import socket
from pathlib import Path

import pytest

from omniq.host import Bell, WakeListener, network_file_system

MOUNTS = """\
/dev/vda / ext4 rw 0 0
server:/export /srv nfs4 rw 0 0
/dev/vdb /srv/local ext4 rw 0 0
//nas/share /mnt cifs rw 0 0
"""


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/srv/jobs", "nfs4"),
        ("/srv", "nfs4"),
        ("/srv/local/jobs", None),
        ("/srvx/jobs", None),
        ("/mnt/a/b", "cifs"),
        ("/var/jobs", None),
    ],
)
def test_network_file_system_is_recognised_by_the_innermost_mount(path, kind):
    assert network_file_system(Path(path), MOUNTS) == kind


class FullDisk(socket.socket):
    def bind(self, _address):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


class NoneLeft(socket.socket):
    def __init__(self, *_arguments):
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))


@pytest.mark.parametrize("trouble", [FullDisk, NoneLeft])
async def test_no_room_for_a_wake_socket_means_to_look_now_and_then(tmp_path, monkeypatch, trouble):
    """As where the platform has none: news comes later, and nothing fails."""
    monkeypatch.setattr("omniq.host.POLL_SECONDS", 0.001)
    monkeypatch.setattr("omniq.host.socket.socket", trouble)
    listener = WakeListener(tmp_path, "a")
    await listener.wait()
    listener.close()
    assert list(tmp_path.iterdir()) == []


SECOND = 1_000_000_000
NOW = 1_800_000_000 * SECOND + 1


@pytest.mark.parametrize(
    ("changed", "looks"),
    [
        (NOW - 20_000_000, 2),  # of the kernel's last ticks
        (NOW - 100_000_000, 1),
        (NOW - 1 - 2 * SECOND, 2),  # a whole second: perhaps of a coarse file system
        (NOW - 1 - 4 * SECOND, 1),
        (NOW + SECOND, 2),  # the clock was set back
    ],
)
def test_bell_looks_who_is_there_while_the_folder_s_time_may_stay_the_same(
    tmp_path, monkeypatch, changed, looks
):
    listdir, looked = os.listdir, []
    monkeypatch.setattr("omniq.host.time.time_ns", lambda: NOW)
    monkeypatch.setattr("omniq.host.os.listdir", lambda path: looked.append(path) or listdir(path))
    os.utime(tmp_path, ns=(changed, changed))
    bell = Bell(tmp_path)
    bell.ring()
    bell.ring()
    bell.close()
    assert len(looked) == looks


async def test_who_comes_when_the_bell_trusts_the_folder_s_time_is_heard_of(tmp_path, monkeypatch):
    monkeypatch.setattr("omniq.host.time.time_ns", lambda: NOW)
    bell = Bell(tmp_path)
    os.utime(tmp_path, ns=(NOW - SECOND // 2, NOW - SECOND // 2))
    bell.ring()
    assert bell._names_of == NOW - SECOND // 2
    listener = WakeListener(tmp_path, "a")
    bell.ring()
    await listener.wait()
    listener.close()
    bell.close()
