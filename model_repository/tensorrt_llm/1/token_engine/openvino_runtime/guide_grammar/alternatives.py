"""Tells by types and constants whether a JSON value can match two schemas."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

from token_engine.openvino_runtime.guide_grammar.grammar import GuideError
from token_engine.openvino_runtime.guide_grammar.json_keywords import type_of, types_of

MAX_COMPARISONS = 50_000  # in one guide: of two schemas, or of two members that they require
VALUES_AT_ONCE = 32  # so many values of an enum count as one comparison more
_ENCODER = json.JSONEncoder(sort_keys=True)


@dataclass(frozen=True, slots=True)
class _Profile:
    """What distinguishes a schema from others."""

    values: frozenset[str] | None = None  # the only ones that match, as JSON
    types: frozenset[str] = frozenset()  # of what matches; empty if that is not known
    members: dict[str, frozenset[str]] = field(default_factory=dict)  # required, with values


class Comparison:
    """Compares the valid schemas of one guide. Each schema and each list is read once."""

    def __init__(self) -> None:
        self._profiles: dict[int, _Profile] = {}  # by the schema's id
        self._apart: set[tuple[int, ...]] = set()  # the ids of schemas that do not overlap
        self._count = 0

    def overlap(self, schemas: list[Any]) -> tuple[int, int] | None:
        """The first two that one value may match both; raises `GuideError`."""
        ids = tuple(map(id, schemas))
        if ids in self._apart:
            return None
        profiles = [self._profile(schema) for schema in schemas]
        for number, right in enumerate(profiles):
            for other, left in enumerate(profiles[:number]):
                if not self._are_apart(left, right):
                    return other, number
        self._apart.add(ids)
        return None

    def _are_apart(self, left: _Profile, right: _Profile) -> bool:
        """True only if nothing matches both."""
        if left.values is not None and right.values is not None:
            return self._are_disjoint(left.values, right.values)
        self._spend(1)
        if left.types and right.types and left.types.isdisjoint(right.types):
            return True
        fewer, more = sorted((left.members, right.members), key=len)
        return any(
            self._are_disjoint(values, more.get(name, values)) for name, values in fewer.items()
        )

    def _are_disjoint(self, left: frozenset[str], right: frozenset[str]) -> bool:
        self._spend(1 + min(len(left), len(right)) // VALUES_AT_ONCE)
        return left.isdisjoint(right)

    def _spend(self, comparisons: int) -> None:
        self._count += comparisons
        if self._count > MAX_COMPARISONS:
            raise GuideError(
                f"has schemas in oneOf that take more than {MAX_COMPARISONS} comparisons to tell "
                "apart; it must have fewer, or anyOf"
            )

    def _profile(self, schema: Any) -> _Profile:
        if id(schema) not in self._profiles:
            self._profiles[id(schema)] = _profile_of(schema)
        return self._profiles[id(schema)]


def _profile_of(schema: Any) -> _Profile:
    if not isinstance(schema, dict):
        return _Profile()
    values = _values(schema)
    if values is not None:
        types = frozenset(map(type_of, schema.get("enum", [schema.get("const")])))
        return _Profile(values, types)
    if any(name in schema for name in ("$ref", "allOf", "anyOf", "oneOf")):
        return _Profile()
    types = frozenset("number" if name == "integer" else name for name in types_of(schema))
    return _Profile(None, types, _members(schema) if types == {"object"} else {})


def _members(schema: dict[str, Any]) -> dict[str, frozenset[str]]:
    """The only values of the properties that it requires, where it names some."""
    properties = schema.get("properties", {})
    values = {name: _values(properties.get(name)) for name in schema.get("required", ())}
    return {name: chosen for name, chosen in values.items() if chosen is not None}


def _values(schema: Any) -> frozenset[str] | None:
    """The only values that match, as JSON."""
    if not isinstance(schema, dict) or not ("enum" in schema or "const" in schema):
        return None
    values = schema["enum"] if "enum" in schema else [schema["const"]]
    return frozenset(map(_ENCODER.encode, values))
