"""From what is typed to words and options, in whatever order; each mistake is named with what was meant. Free of torch."""

from __future__ import annotations

import re
from argparse import ArgumentError
from collections.abc import Mapping, Sequence
from typing import Any

from frugalseg import config
from frugalseg.config import Option, UsageError


def parse(kinds: Sequence[type], typed: Sequence[str]) -> tuple[list[str], dict[str, Any]]:
    """The words of a command line, and the values of its options, without those left to their defaults. Raises UsageError.

    kinds: dataclasses of the options.
    """
    by_name = config.options(*kinds)
    words, rest = split(by_name, typed)
    switches = {"--no-" + option.flag[2:] for option in by_name.values() if option.hint is bool}
    flags = {option.flag for option in by_name.values()} | switches
    typed_flags = [re.split(r"[=.]", item)[0] for item in rest if item.startswith("--")]
    faults = [f"there is no option {flag}{config.did_you_mean(flag, flags)}" for flag in typed_flags if flag not in flags]
    if faults:
        raise UsageError("\n".join(faults))
    try:
        return words, config.parser(*kinds).parse_args(bracketed(by_name, rest), defaults=False).as_dict()
    except ArgumentError as error:
        raise UsageError(config.explain(error, by_name)) from None


def split(by_name: Mapping[str, Option], typed: Sequence[str]) -> tuple[list[str], list[str]]:
    """Separate the words of a command line from its options with their values; behind `--` there are words alone."""
    words: list[str] = []
    rest: list[str] = []
    left = list(typed)
    while left:
        item = left.pop(0)
        if item == "--":
            return words + left, rest
        if not item.startswith("--"):
            words.append(item)
            continue
        flag, equals, value = item.partition("=")
        name = _name(flag)
        rest.append("--" + name.replace("_", "-") + equals + value)
        switch = name.removeprefix("no_") in by_name and by_name[name.removeprefix("no_")].hint is bool
        if not equals and not switch and left:
            rest.append(left.pop(0))
    return words, rest


def bracketed(by_name: Mapping[str, Option], rest: Sequence[str]) -> list[str]:
    """The options with lists as YAML has them: what is typed as --scales 0.7,1 or --novel cat becomes [0.7,1] and [cat]."""
    items: list[str] = []
    is_list = False
    for item in rest:
        flag, equals, value = item.partition("=") if item.startswith("--") else ("", "", item)
        if flag:
            is_list = _name(flag) in by_name and by_name[_name(flag)].is_list
        if is_list and (equals or not flag) and not value.startswith(("[", "(")):
            value = f"[{value}]"
        items.append(flag + equals + value)
    return items


def _name(flag: str) -> str:
    """The name of the setting that a flag stands for."""
    return flag[2:].replace("-", "_")
