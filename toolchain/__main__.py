"""`python -m toolchain` and the `toolchain` command."""

import sys

from toolchain.cli.app import main

__all__ = ["main"]

if __name__ == "__main__":
    sys.exit(main())
