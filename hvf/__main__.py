"""`python -m hvf` is `hvf`."""

from __future__ import annotations

import sys

from hvf.cli import main

if __name__ == "__main__":
    sys.exit(main())
