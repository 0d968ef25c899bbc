"""The smallest JSON value that still shows something: what is left when parts are taken out."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any


def smallest(value: Any, shows: Callable[[Any], bool]) -> Any:
    """`value` without all parts that can be left out; `shows` says whether a try still counts."""
    while (found := next(filter(shows, _smaller(value)), _NOTHING)) is not _NOTHING:
        value = found
    return value


_NOTHING = object()


def _smaller(value: Any) -> Iterator[Any]:
    """One part less, the greatest parts first."""
    if isinstance(value, dict):
        for name in value:
            yield {key: one for key, one in value.items() if key != name}
        for name, one in value.items():
            for less in _smaller(one):
                yield {**value, name: less}
    elif isinstance(value, list):
        for place in range(len(value)):
            yield value[:place] + value[place + 1 :]
        for place, one in enumerate(value):
            for less in _smaller(one):
                yield [*value[:place], less, *value[place + 1 :]]
    elif isinstance(value, str) and value:
        yield value[1:]
        yield value[:-1]
