"""Print the first function that a frugalseg command enters in each module, in their order: `python tracer.py SOURCE WORDS...`.

SOURCE is the folder of the package, which need not be that of this checkout: the script imports nothing else of it. "OUT" in a
word stands for a folder to write to. The command runs twice, first unwatched, so that nothing is entered by being imported.
"""

from __future__ import annotations

import sys
import threading
from contextlib import suppress
from types import FrameType
from typing import Any

FUNCTION = 0x1  # CO_OPTIMIZED: the body of a function, not of a module or class


def main(source: str, words: list[str]) -> None:
    from frugalseg.cli import main as command

    entered: dict[str, str] = {}

    def watch(frame: FrameType, event: str, _: Any) -> None:
        code = frame.f_code
        ours = code.co_filename.startswith(source) and code.co_filename.endswith(".py")
        if event == "call" and ours and code.co_flags & FUNCTION and not code.co_name.startswith("<"):
            entered.setdefault(code.co_filename.removeprefix(source).lstrip("/"), code.co_qualname)

    for folder in ("unwatched", "watched"):
        if folder == "watched":
            threading.setprofile(watch)
            sys.setprofile(watch)
        with suppress(SystemExit):
            command([word.replace("OUT", folder) for word in words])
    sys.setprofile(None)
    print("entered", *(f"{file}:{function}" for file, function in entered.items()), sep="\n")


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
