"""The old name of `few_shot`, for `python -m benchmarks.fewshot`."""

import sys

from benchmarks.few_shot import main

if __name__ == "__main__":
    sys.exit(main())
