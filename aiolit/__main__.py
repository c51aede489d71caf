"""``python -m aiolit``: the command line."""

import sys

from aiolit.cli import main

if __name__ == "__main__":
    sys.exit(main())
