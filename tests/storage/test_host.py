"""What the platform module says of the machine."""

from pathlib import Path

import pytest

from omniq.host import network_file_system

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
