"""``python -m withstand`` is the command ``withstand``."""

import sys

from withstand.cli import main

if __name__ == "__main__":
    sys.exit(main())
