"""Random schemas with every keyword of every draft: no text is matched that is not valid."""

from __future__ import annotations

import pytest

from tests.fuzzing.guides import fault_of
from tests.support.smaller_json import smallest

COUNT, PART = 240, 60  # `make fuzz-guides` goes on from there


@pytest.mark.parametrize("first", range(0, COUNT, PART))
def test_what_is_matched_is_valid_and_refusals_are_sentences(first: int) -> None:
    assert [fault for number in range(first, first + PART) if (fault := fault_of(number))] == []


def test_the_smallest_that_shows_a_fault() -> None:
    value = {"a": [1, {"b": "xyz"}, 2], "c": {"d": {}}}
    assert smallest(value, lambda one: "y" in str(one)) == {"a": [{"b": "y"}]}
    assert smallest(value, lambda one: True) == {}
    assert smallest(value, lambda one: False) == value
