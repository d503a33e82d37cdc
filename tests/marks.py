"""Cases that `make test` runs, and those of the same kind that only `make test-all` does."""

from collections.abc import Iterable
from typing import Any

import pytest


def slow_but(values: Iterable[Any], *quick: Any) -> list[Any]:
    """All of them as cases of a test, those that are not among ``quick`` marked slow; a tuple is several arguments."""
    every = list(values)
    assert all(each in every for each in quick), quick
    return [
        each if each in quick else pytest.param(*(each if isinstance(each, tuple) else (each,)), marks=pytest.mark.slow)
        for each in every
    ]
