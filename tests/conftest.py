"""What all tests share."""

import os

import pytest
from hypothesis import settings

pytest.register_assert_rewrite("omniq.testing.conformance")

# A failure prints the line that repeats it. CI looks at the same cases each time, so that it fails
# only for a reason in the commit.
settings.register_profile("default", print_blob=True, deadline=None)
settings.register_profile("ci", print_blob=True, derandomize=True, deadline=None)
settings.load_profile("ci" if "CI" in os.environ else "default")


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"
