"""`python -m omniq` is the `omniq` command."""

from __future__ import annotations

import sys

from omniq.cli import main

if __name__ == "__main__":
    sys.exit(main())
