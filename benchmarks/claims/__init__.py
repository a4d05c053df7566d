"""What each method is measured by, a file for each paper."""

from benchmarks.claims import aepsl, pdsl, r2ios, r2o

PLANS = (aepsl.PLAN, pdsl.PLAN, r2ios.PLAN, r2o.PLAN)
