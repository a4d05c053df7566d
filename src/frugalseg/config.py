"""Settings: the defaults of dataclasses, then a YAML file, then the command line; strict, and without torch.

A recipe (`frugalseg.recipes`) is a frozen dataclass whose docstring explains each field. Several dataclasses together make one
flat set of options: `--save-every 50` on the command line, `save_every: 50` in YAML, `save_every=50` in Python. Types, parsing
and help text are jsonargparse's; what is added here is that nothing unknown passes and that all faults are named together.
"""

from __future__ import annotations

import re
import typing
from argparse import ArgumentError
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import MISSING, asdict, dataclass, field, fields, is_dataclass, make_dataclass
from difflib import get_close_matches
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

import yaml
from docstring_parser import parse as parse_docstring
from jsonargparse import ActionYesNo, ArgumentParser

from frugalseg.errors import FrugalsegError
from frugalseg.files import write

Kind = TypeVar("Kind")


class UsageError(FrugalsegError, ValueError):
    """A command or setting that cannot be meant; the message says what to type instead."""


# -- options of dataclasses ------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Option:
    """One setting: `hint` is its type, `help` its meaning, `title` the first line of the docstring that explains it."""

    name: str
    hint: Any
    default: Any
    help: str
    title: str

    @property
    def flag(self) -> str:
        """As it is typed: `--lr-schedule`."""
        return "--" + self.name.replace("_", "-")

    @property
    def is_list(self) -> bool:
        """Whether it takes several values, with commas between them."""
        return typing.get_origin(self.hint) is tuple

    @property
    def expected(self) -> str:
        """What kind of value it takes, in words."""
        if typing.get_origin(self.hint) is typing.Literal:
            return "one of " + ", ".join(map(str, typing.get_args(self.hint)))
        if self.is_list:
            kind, *others = typing.get_args(self.hint)
            values = {int: "whole numbers", float: "numbers", str: "words"}.get(kind, str(kind))
            return f"{values} with commas between them" if others == [...] else f"{1 + len(others)} {values} with a comma between"
        words = {int: "a whole number", float: "a number", bool: "true or false", str: "text"}
        return words.get(self.hint) or str(self.hint).replace("typing.", "")


@cache
def options(*kinds: type) -> Mapping[str, Option]:
    """The flat options of several dataclasses, by name; where two define the same name, the first one's."""
    flat: dict[str, Option] = {}
    for kind in kinds:
        texts, hints = explanations(kind), typing.get_type_hints(kind)
        for part in fields(kind):
            default = part.default if part.default_factory is MISSING else part.default_factory()
            title, text = texts.get(part.name, (kind.__name__, ""))
            flat.setdefault(part.name, Option(part.name, hints[part.name], default, text, title))
    return flat


def explanations(kind: type) -> dict[str, tuple[str, str]]:
    """For each field of a dataclass: the first line of the docstring that explains it, and the explanation.

    A dataclass made of groups (`recipes.groups`) inherits their explanations; its own come first.
    """
    texts: dict[str, tuple[str, str]] = {}
    for part in reversed([part for part in kind.__mro__ if is_dataclass(part)]):
        doc = parse_docstring(vars(part).get("__doc__") or "")
        title = doc.short_description or part.__name__
        texts |= {entry.arg_name: (title, " ".join((entry.description or "").split())) for entry in doc.params}
    return texts


def some_of(kind: type, *names: str) -> type:
    """A dataclass of some fields of another, with their types, defaults and explanations, for a command that passes them on."""
    chosen = [options(kind)[name] for name in names]
    parts = [(option.name, option.hint, field(default=option.default)) for option in chosen]
    lines = [f"    {option.name}: {option.help}" for option in chosen]
    part = make_dataclass(kind.__name__, parts, frozen=True)
    part.__doc__ = "\n".join([chosen[0].title, "", "Args:", *lines])
    return part


def divided(settings: Mapping[str, Any], *kinds: type) -> tuple[dict[str, Any], dict[str, Any]]:
    """Those of the settings that are options of the dataclasses, and the others."""
    by_name = options(*kinds)
    inside = {name: value for name, value in settings.items() if name in by_name}
    return inside, {name: value for name, value in settings.items() if name not in by_name}


def parser(*kinds: type, **keywords: Any) -> ArgumentParser:
    """A jsonargparse parser with one help group for each docstring; `keywords` (prog, usage, …) go to its constructor."""
    arguments = ArgumentParser(exit_on_error=False, allow_abbrev=False, **keywords)
    groups: dict[str, Any] = {}
    for option in options(*kinds).values():
        if option.title not in groups:
            groups[option.title] = arguments.add_argument_group(option.title.rstrip("."))
        kind = {"action": ActionYesNo(no_prefix="no-")} if option.hint is bool else {"type": option.hint}
        groups[option.title].add_argument(option.flag, default=option.default, help=option.help, **kind)
    return arguments


# -- values ----------------------------------------------------------------------------------------------------------


class FileSettings(dict[str, Any]):
    """The settings in a file. path: its name, for the message when one of them is wrong."""

    def __init__(self, path: str | Path, values: Mapping[str, Any]) -> None:
        super().__init__(values)
        self.path = path


def resolve(kinds: Sequence[type], *layers: Mapping[str, Any]) -> dict[str, Any]:
    """Every option's value: the dataclasses' defaults, overridden by each layer in turn.

    Raises UsageError with all faults, and the file of each that is in a file.
    """
    by_name, checker = options(*kinds), _checker(*kinds)
    chosen: dict[str, Any] = {}
    faults: list[str] = []
    for layer in layers:
        values = {key.replace("-", "_"): _plain_dict(value) for key, value in layer.items()}
        place = f"{layer.path}: " if isinstance(layer, FileSettings) else ""
        if not _all_fit(checker, values, by_name):
            faults += [place + fault for name, value in values.items() for fault in _faults(checker, name, value, by_name)]
        chosen |= values
    if faults:
        raise UsageError("\n".join(faults))
    values = checker.parse_object(chosen).as_dict()
    return {name: by_name[name].hint(**value) if is_dataclass(by_name[name].hint) else value for name, value in values.items()}


def instance(kind: type[Kind], *layers: Mapping[str, Any]) -> Kind:
    """The dataclass `kind` with the values of the layers over its defaults. Raises UsageError; see `resolve`."""
    return build(kind, resolve([kind], *layers))


def build(kind: type[Kind], settings: Mapping[str, Any]) -> Kind:
    """The dataclass `kind` from those of the settings that are its fields. Its own ValueErrors become UsageErrors."""
    try:
        return kind(**{part.name: settings[part.name] for part in fields(typing.cast(Any, kind))})
    except ValueError as error:
        raise UsageError(str(error)) from None


def _plain_dict(value: Any) -> Any:
    return asdict(value) if is_dataclass(value) and not isinstance(value, type) else value


_checker = cache(parser)  # building a parser takes longer than all that it is asked


def _all_fit(checker: ArgumentParser, values: Mapping[str, Any], by_name: Mapping[str, Option]) -> bool:
    """Whether no value has a fault, by a single parse, which takes hardly longer than that of one value."""
    if any(_misfits(name, value, by_name) for name, value in values.items()):
        return False
    try:
        checker.parse_object(values, defaults=False)
    except ArgumentError:
        return False
    return True


def _faults(checker: ArgumentParser, name: str, value: Any, by_name: Mapping[str, Option]) -> list[str]:
    misfits = _misfits(name, value, by_name)
    if misfits:
        return misfits
    try:
        checker.parse_object({name: value}, defaults=False)
    except ArgumentError as error:
        return [explain(error, by_name)]
    return []


def _misfits(name: str, value: Any, by_name: Mapping[str, Option]) -> list[str]:
    """The faults that jsonargparse would not name: settings that do not exist, None where it is not allowed."""
    if name not in by_name:
        return [f"there is no setting {name!r}{did_you_mean(name, by_name)}"]
    hint = by_name[name].hint
    if value is None and type(None) not in typing.get_args(hint):
        return [f"{by_name[name].flag}: got nothing, expected {by_name[name].expected}"]
    if is_dataclass(hint) and isinstance(value, Mapping):
        inner = options(typing.cast(type, hint))
        return [f"there is no setting {name}.{key}{did_you_mean(key, inner)}" for key in value if key not in inner]
    return []


def explain(error: ArgumentError, by_name: Mapping[str, Option]) -> str:
    """jsonargparse's message in our words where it is about a value, else as it stands."""
    match = re.search(r'key "(\w+)".*(?:Got value|Given value): ?(.*)', error.message or "", re.DOTALL)
    if not match or match[1] not in by_name:
        return str(error.message)
    option = by_name[match[1]]
    return f"{option.flag}: got {match[2].strip()!r}, expected {option.expected}"


# -- files -----------------------------------------------------------------------------------------------------------


def read(path: str | Path) -> FileSettings:
    """The settings in a YAML file. Raises UsageError when it is absent, broken or no flat mapping."""
    if not Path(path).is_file():
        near = did_you_mean(str(path), map(str, Path(path).parent.glob("*.yaml")))
        raise UsageError(f"{path} cannot be read: there is no such file{near}")
    try:
        values = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise UsageError(f"{path} cannot be read as YAML settings: {error}") from None
    if values is not None and not isinstance(values, dict):
        raise UsageError(f"{path}: got a {type(values).__name__}, expected lines such as 'rounds: 3'")
    return FileSettings(path, {str(key): value for key, value in (values or {}).items()})


def save(path: str | Path, settings: Mapping[str, Any]) -> None:
    """Write settings as YAML that `read` reads back to the same values; a reader never sees half of it."""
    write(Path(path), yaml.safe_dump(_plain(settings), sort_keys=False, allow_unicode=True))


def _plain(value: Any) -> Any:
    """Dataclasses, tuples and paths as what YAML's safe subset has."""
    if is_dataclass(value) and not isinstance(value, type):
        value = asdict(value)
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return str(value) if isinstance(value, Path) else value


def did_you_mean(word: str, choices: Iterable[str]) -> str:
    """ " – did you mean X?" for the choice nearest to `word`, or nothing where none is near."""
    near = get_close_matches(word, list(choices), n=1, cutoff=0.5)
    return f" – did you mean {near[0]}?" if near else ""
