"""What each method is measured by, a file for each paper."""

from benchmarks.claims import aepsl, r2ios

PLANS = (aepsl.PLAN, r2ios.PLAN)
