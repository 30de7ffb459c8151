"""What the platform module says of the machine."""

import errno
import os
import socket
from pathlib import Path

import pytest

from omniq.host import WakeListener, network_file_system

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


async def test_no_room_for_a_wake_socket_means_to_look_now_and_then(tmp_path, monkeypatch):
    """As where the platform has none: news comes later, and nothing fails."""

    class Full(socket.socket):
        def bind(self, _address):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("omniq.host.POLL_SECONDS", 0.001)
    monkeypatch.setattr("omniq.host.socket.socket", Full)
    listener = WakeListener(tmp_path, "a")
    await listener.wait()
    listener.close()
    assert list(tmp_path.iterdir()) == []
