"""The command line, one module for each command: its options, what it does, and its `COMMAND`, which is listed here.

`--help` answers at once: nothing heavy is imported before a command really starts. May use everything but the page.
"""

from __future__ import annotations

import os
import signal
import sys
import traceback
import warnings
from collections.abc import Sequence

from frugalseg import config
from frugalseg.cli import arguments, backbone, check, demo, evaluate, methods, objects, predict, regions, segment, shapes, train
from frugalseg.cli.command import Command
from frugalseg.cli.console import INTERRUPTED, OK, PROBLEM, USAGE, show_warning, warn
from frugalseg.config import UsageError
from frugalseg.errors import FrugalsegError

__all__ = ["COMMANDS", "INTERRUPTED", "OK", "PROBLEM", "USAGE", "main"]

HEAD = "frugalseg – segment with whatever labels you have"
FOOT = """\
`val` and `test` are other names of `evaluate`.
`frugalseg COMMAND --help` lists a command's options, `frugalseg train METHOD --help` a method's settings.
--version prints the version; --debug shows where an error comes from.
Exit status: 0 done, 1 a problem in the data or the work, 2 the command cannot be understood."""
TERMINATED = 128 + signal.SIGTERM  # the exit status of a training that was asked to stop

# In the order of the overview.
MODULES = (demo, check, train, evaluate, predict, segment, objects, backbone, regions, shapes, methods)
LISTED = {module.__name__.rpartition(".")[2]: module.COMMAND for module in MODULES}
COMMANDS: dict[str, Command] = {name: command for first, command in LISTED.items() for name in (first, *command.aliases)}


def main(typed: Sequence[str] | None = None) -> int:
    """Run one command and give its exit status; what a user can mend is one message, not a traceback."""
    words = list(sys.argv[1:] if typed is None else typed)
    try:
        with warnings.catch_warnings():
            warnings.showwarning = show_warning
            return dispatch([word for word in words if word != "--debug"])
    except KeyboardInterrupt:
        warn(stopped(words))
        return INTERRUPTED
    except SystemExit as end:
        if end.code == TERMINATED:
            warn(stopped(words))
        raise
    except BrokenPipeError:  # the reader of our output, such as `head`, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return PROBLEM
    except Exception as error:
        return failed(error, debug="--debug" in words)


def failed(error: Exception, debug: bool) -> int:
    """Say what went wrong, with a traceback where the user cannot mend it; the exit status."""
    if debug or not isinstance(error, (FrugalsegError, ValueError, OSError)):
        traceback.print_exc()
    warn(f"error: {error}")
    return USAGE if isinstance(error, UsageError) else PROBLEM


def stopped(words: Sequence[str]) -> str:
    """What a command that was stopped says."""
    resumes = bool(words) and words[0] in COMMANDS and COMMANDS[words[0]].resumes
    return f"stopped; the same command {'goes on where it was' if resumes else 'begins anew'}"


def dispatch(words: list[str]) -> int:
    """Find the command, split its words from its options, check both, and run it. Raises UsageError."""
    if not words or words[0] in ("-h", "--help", "help"):
        print(overview())
        return OK if words else USAGE
    if words[0] == "--version":
        from importlib.metadata import version

        print(f"frugalseg {version('frugalseg')}")
        return OK
    name, rest = words[0], words[1:]
    if name not in COMMANDS:
        raise UsageError(f"there is no command {name!r}{config.did_you_mean(name, COMMANDS)}\n`frugalseg --help` lists them")
    command = COMMANDS[name]
    if "--help" in rest or "-h" in rest:
        print_help(name, command, rest)
        return OK
    free, values = arguments.parse(command.options_for(rest), rest)
    expect_count(name, command, free)
    return command.run(free, values)


def expect_count(name: str, command: Command, free: Sequence[str]) -> None:
    """Raises UsageError for too few words, or too many."""
    low, high = command.counts
    if low <= len(free) <= high:
        return
    hint = "; switches take no value: type --NAME or --no-NAME" if {"true", "false"} & {word.lower() for word in free} else ""
    raise UsageError(f"{name}: got {' '.join(free) or 'nothing'}, expected frugalseg {name} {command.words}{hint}")


def overview() -> str:
    """The text of `frugalseg --help`."""
    usages = {f"{name} {command.words}": command.summary for name, command in LISTED.items()}
    width = max(map(len, usages)) + 2
    lines = [f"  {usage:<{width}}{summary}" for usage, summary in usages.items()]
    return "\n".join([HEAD, "", "usage: frugalseg COMMAND …", "", *lines, "", FOOT])


def print_help(name: str, command: Command, words: Sequence[str]) -> None:
    """Every option of a command with its meaning and default."""
    kinds, (typed, summary) = command.options_for(words), command.help_for(words)
    usage = f"frugalseg {name} {typed}{' [--option value …]' if kinds else ''}"
    description = f"{summary[0].upper()}{summary[1:]}."
    config.parser(*kinds, prog=f"frugalseg {name}", usage=usage, description=description).print_help()
