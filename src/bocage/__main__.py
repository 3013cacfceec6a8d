"""`python -m bocage` is the `bocage` command."""

import sys

from bocage import cli

if __name__ == "__main__":
    sys.exit(cli.main())
