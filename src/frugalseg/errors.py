"""The family of exceptions that say what a user can do. Free of torch."""

from __future__ import annotations


class FrugalsegError(Exception):
    """Something that the user can mend. The message says what it is about, what was got, what is expected and what to type.

    Its members are also ValueErrors, OSErrors or RuntimeErrors, so that `except` clauses for those catch them.
    """
