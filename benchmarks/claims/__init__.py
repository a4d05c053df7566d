"""What each method is measured by and which claims of its paper are tested: a file for each paper, holding its PLAN.

Every file here is found by its being here; a name that starts with an underscore holds what several share.
"""

from importlib import import_module
from pkgutil import iter_modules

from benchmarks.plan import Plan


def _discover() -> tuple[Plan, ...]:
    names = sorted(module.name for module in iter_modules(__path__) if not module.name.startswith("_"))
    return tuple(import_module(f"{__name__}.{name}").PLAN for name in names)


PLANS = _discover()
