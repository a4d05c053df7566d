"""What each method is measured by, a file for each paper."""

from benchmarks.claims import aepsl

PLANS = (aepsl.PLAN,)
