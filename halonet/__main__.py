"""`python -m halonet` is `halonet`."""

import sys

from halonet.cli import main

if __name__ == "__main__":
    sys.exit(main())
