"""The old name of `page`, for `python -m benchmarks.tables`."""

import sys

from benchmarks.page import main

if __name__ == "__main__":
    sys.exit(main())
