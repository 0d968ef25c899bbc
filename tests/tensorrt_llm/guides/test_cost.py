"""What the check before the engine costs: steps in proportion to the guide, whatever it holds.

Calls are counted, not seconds: those of Python's functions and of its built-in ones.
"""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

import pytest
from request_inputs.guide_bounds import MAX_BYTES

from tests.support.costly_guides import GUIDES, filled
from tests.support.guide_matching import check_guide

CALLS_PER_BYTE = 30  # the most that is needed is 17
CALLS_BESIDE = 5_000


@pytest.mark.parametrize(
    ("kind", "text"),
    [(kind, text) for kind, _, text in GUIDES],
    ids=[f"{kind}: {name}" for kind, name, _ in GUIDES],
)
def test_calls_are_in_proportion_to_the_guide(kind: str, text: str) -> None:
    size = len(text.encode())
    assert size <= MAX_BYTES
    with at_most(CALLS_BESIDE + CALLS_PER_BYTE * size), contextlib.suppress(ValueError):
        check_guide(kind, text)


@pytest.mark.parametrize(
    ("kind", "make"),
    [
        ("json_schema", lambda size: filled('"', '\\"', "", "", size)),
        ("json_schema", lambda size: filled("", '"\\', "", "", size)),
        ("json_schema", lambda size: filled('{"default":["', '\\"[', '"]}', "", size)),
        ("json_schema", lambda size: filled(
            f'{{"properties":{{"{"a" * (size // 2)}":{{"prefixItems":[', '{"items":{}}', "]}}}",
            size=size)),
        ("json_schema", lambda size: filled('{"$ref":"#/', "%41", '"}', "", size)),
        ("ebnf_grammar", lambda size: filled('root ::= ""{1', " ", "x}", "", size)),
        ("ebnf_grammar", lambda size: filled('root ::= ""{1,', " ", "x}", "", size)),
        ("ebnf_grammar", lambda size: filled('root ::= "', '\\"', "", "", size)),
        ("regex", lambda size: filled("[^", lambda n: chr(0x100 + 2 * n), "]", "", size)),
    ],
)  # fmt: skip
def test_the_time_is_in_proportion_too(kind: str, make: Callable[[int], str]) -> None:
    """A regular expression or a copy of a text is one call, however long it takes."""
    small, large = seconds(kind, make(MAX_BYTES // 16)), seconds(kind, make(MAX_BYTES))
    assert large / small < 100  # 16 in proportion, 256 if squared


class _TooMany(BaseException):
    """Nobody catches it."""


@contextlib.contextmanager
def at_most(calls: int) -> Iterator[None]:
    """Fails as soon as there are more calls within."""
    left = calls

    def count(_frame: FrameType, event: str, _argument: Any) -> None:
        nonlocal left
        left -= event in ("call", "c_call")
        if left < 0:
            raise _TooMany

    former = sys.getprofile()
    sys.setprofile(count)
    try:
        yield
    except _TooMany:
        pytest.fail(f"takes more than {calls} calls")
    finally:
        sys.setprofile(former)


def seconds(kind: str, text: str) -> float:
    """Computing time, the least of some runs."""
    measured = []
    for _ in range(5):
        started = time.process_time()
        with contextlib.suppress(ValueError):
            check_guide(kind, text)
        measured.append(time.process_time() - started)
    return min(measured)
