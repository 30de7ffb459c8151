"""For tests of programs that use OmniQ, and of storage backends that others write.

`VirtualClock` and `SeededEntropy` stand for time and chance: a retry in an hour takes no time, and
a run can be repeated. `StorageConformance` is the contract of `BaseStorage` as a test class, and
`SnapshotConformance` adds what a backend owes that keeps snapshots.
"""

from omniq.testing.conformance import StorageConformance
from omniq.testing.snapshots import SnapshotConformance
from omniq.testing.virtual import SeededEntropy, VirtualClock

__all__ = ("SeededEntropy", "SnapshotConformance", "StorageConformance", "VirtualClock")
