"""One module for each kind of output: how a model of it is scored, what is shown of it, and what takes no learning.

Each module of a task has `evaluate(predictor, data, options, quiet) -> Result`; its options are a dataclass in `tasks.options`.
The names of the tasks and the words for what they make are those of `methods.TASKS`. Importing this package imports no torch.

May use: inference, export, methods and below.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import Any

from frugalseg import config
from frugalseg.config import UsageError
from frugalseg.methods import TASKS as WORDS
from frugalseg.methods import Method
from frugalseg.tasks.options import FewShot, Foreground, Masks


@dataclass(frozen=True)
class Task:
    """A kind of output before its code is loaded.

    name: its key in TASKS. options: the dataclass of what can be chosen when it is scored. previews: whether its models make
    something of an image alone, which a report can show where nothing was scored.
    """

    name: str
    options: type
    previews: bool = True

    @property
    def code(self) -> Any:
        """The module that scores it; imports torch."""
        return import_module(f"{__name__}.{self.name}")


TASKS: dict[str, Task] = {
    task.name: task
    for task in (
        Task("semantic", Masks),
        Task("instances", Masks),
        Task("few_shot", FewShot, previews=False),
        Task("foreground", Foreground),
    )
}


def choose_options(method: Method, values: Mapping[str, Any]) -> Any:
    """The options of the method's task with these values, the others at their defaults.

    Raises UsageError for an option of another task, for one that no task has, and for a value that is not valid.
    """
    task = TASKS[method.task]
    foreign = [fault for name, value in values.items() if (fault := _foreign(name, value, method))]
    if foreign:
        raise UsageError("\n".join(foreign))
    return config.build(task.options, config.resolve([task.options], values))


def _foreign(name: str, value: Any, method: Method) -> str:
    """What is wrong with an option that belongs to other tasks than the method's; nothing where it is this one's, or nobody's."""
    owners = [task for task in TASKS.values() if name in config.options(task.options)]
    if not owners or TASKS[method.task] in owners:
        return ""
    flag = config.options(owners[0].options)[name].flag
    makers = " or ".join(WORDS[task.name] for task in owners)
    return (
        f"{flag}: got {value!r} for a model of {method.name}, which makes {method.makes}; {flag} is an option of models that "
        f"make {makers}. Type the command without {flag}"
    )
