"""What each method is measured by, a file for each paper."""

from benchmarks.claims import aepsl, pdsl, r2ios

PLANS = (aepsl.PLAN, pdsl.PLAN, r2ios.PLAN)
