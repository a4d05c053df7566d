"""Checks of settings, all faults at once, and settings back from a weights file. Free of torch."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeVar

Config = TypeVar("Config")


def faults(settings: Any, minimum: Mapping[str, float], shares: Iterable[str] = (), positive: Iterable[str] = ()) -> list[str]:
    """What is wrong with the settings of these names: numbers below their minimum, shares outside 0 to 1, numbers not above 0."""
    values = vars(settings)
    low = [f"{name}={values[name]}: expected at least {least}" for name, least in minimum.items() if values[name] < least]
    outside = [f"{name}={values[name]}: expected a number from 0 to 1" for name in shares if not 0 <= values[name] <= 1]
    return low + outside + [f"{name}={values[name]}: expected a number above 0" for name in positive if not values[name] > 0]


def refuse(name: str, faults: Sequence[str]) -> None:
    """Raises ValueError that lists all faults of the settings of that name, if there are any."""
    if faults:
        raise ValueError(f"{name} settings are not valid:\n" + "\n".join(f"  - {fault}" for fault in faults))


def restored(kind: type[Config], stored: Mapping[str, Any], **changes: Any) -> Config:
    """The settings in the metadata of a weights file: with tuples for JSON's lists, without the weights they started from."""
    settings = {name: tuple(value) if isinstance(value, list) else value for name, value in stored.items()}
    started_from = {"weights": None} if "weights" in settings else {}
    return kind(**{**settings, **started_from, **changes})
