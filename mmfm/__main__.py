"""`python -m mmfm` is the `mmfm` command."""

import sys

from mmfm.cli import main

if __name__ == "__main__":
    sys.exit(main())
