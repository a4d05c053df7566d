"""Checks of settings outside the recipes, all at once, and settings back from a weights file. Free of torch."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeVar

Config = TypeVar("Config")


def faults(config: Any, least: Mapping[str, float], shares: Iterable[str] = (), positive: Iterable[str] = ()) -> list[str]:
    """What is wrong with the settings of these names: numbers below their least, shares outside 0 to 1, numbers not above 0."""
    values = vars(config)
    found = [f"{name}={values[name]}: expected at least {low}" for name, low in least.items() if values[name] < low]
    found += [f"{name}={values[name]}: expected a number from 0 to 1" for name in shares if not 0 <= values[name] <= 1]
    return found + [f"{name}={values[name]}: expected a number above 0" for name in positive if not values[name] > 0]


def refuse(method: str, found: Sequence[str]) -> None:
    """Raises ValueError that lists all faults, if there are any."""
    if found:
        raise ValueError(f"{method} settings are not valid:\n" + "\n".join(f"  - {fault}" for fault in found))


def restored(kind: type[Config], stored: Mapping[str, Any], **changes: Any) -> Config:
    """The settings in the metadata of a weights file: with tuples for JSON's lists, without the weights they began from."""
    settings = {name: tuple(value) if isinstance(value, list) else value for name, value in stored.items()}
    begun_from = {"weights": None} if "weights" in settings else {}
    return kind(**{**settings, **begun_from, **changes})
