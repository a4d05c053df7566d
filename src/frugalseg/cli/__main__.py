"""`python -m frugalseg.cli` is the command `frugalseg`."""

import sys

from frugalseg.cli import main

sys.exit(main())
