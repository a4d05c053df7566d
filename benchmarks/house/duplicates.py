"""Blocks of code that stand in two places: six lines or more that are equal, or alike but for names, strings and numbers.

A list of fields or a table of rows is alike everywhere, so a block must have some words and different lines to count.
"""

from __future__ import annotations

import io
import keyword
import token
import tokenize
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from itertools import combinations
from operator import attrgetter
from pathlib import Path
from typing import NamedTuple

LINES, WORDS, DIFFERENT = 6, 40, 3  # of a block at least: lines, words, lines that differ from each other
COMMON = 8  # a block in more places than these is a habit of the language, such as a list of imports
SKIPPED = {tokenize.COMMENT, tokenize.NL, token.INDENT, token.DEDENT, token.ENCODING, token.ENDMARKER}


class Place(NamedTuple):
    file: Path
    line: int


class Line(NamedTuple):
    """A line of code. text: its tokens, by shape with the same word for all names, strings and numbers."""

    number: int
    text: str


def lines(source: str, by_shape: bool = True) -> list[Line]:
    """The lines that count: without blank ones, comments, docstrings, imports and lone punctuation."""
    tokens_of: dict[int, list[tokenize.TokenInfo]] = defaultdict(list)
    for each in tokenize.generate_tokens(io.StringIO(source).readline):
        if each.type not in SKIPPED and each.type != token.NEWLINE:
            tokens_of[each.start[0]].append(each)
    word = shape if by_shape else attrgetter("string")
    return [Line(number, " ".join(map(word, tokens))) for number, tokens in sorted(tokens_of.items()) if counts(tokens)]


def counts(tokens: Sequence[tokenize.TokenInfo]) -> bool:
    if tokens[0].string in ("import", "from"):
        return False
    docstring = len(tokens) == 1 and tokens[0].type == token.STRING
    return not docstring and any(each.type in (token.NAME, token.NUMBER, token.STRING) for each in tokens)


def shape(each: tokenize.TokenInfo) -> str:
    if each.type == token.NAME:
        return each.string if keyword.iskeyword(each.string) else "name"
    return {token.NUMBER: "0", token.STRING: "''"}.get(each.type, each.string)


def duplicates(files: Iterable[Path], by_shape: bool = True) -> dict[tuple[Path, Path], list[tuple[int, int]]]:
    """For each pair of files, or a file with itself, the lines at which a block begins that stands in both."""
    places: dict[tuple[str, ...], list[Place]] = defaultdict(list)
    for file in files:
        for line, block in blocks(lines(file.read_text(encoding="utf-8"), by_shape)):
            places[block].append(Place(file, line))
    pairs: dict[tuple[Path, Path], list[tuple[int, int]]] = defaultdict(list)
    for where in places.values():
        for one, other in combinations(where if len(where) <= COMMON else [], 2):
            if one.file != other.file or abs(one.line - other.line) >= LINES:
                pairs[one.file, other.file].append((one.line, other.line))
    return dict(pairs)


def blocks(code: Sequence[Line]) -> Iterator[tuple[int, tuple[str, ...]]]:
    """Every LINES lines in a row with enough in them: the number of the first, and their texts."""
    for begin in range(len(code) - LINES + 1):
        block = tuple(line.text for line in code[begin : begin + LINES])
        if len(" ".join(block).split()) >= WORDS and len(set(block)) >= DIFFERENT:
            yield code[begin].number, block
