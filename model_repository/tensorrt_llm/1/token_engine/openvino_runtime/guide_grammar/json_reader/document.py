"""A JSON schema as a document: its draft, its parts by number, what its references lead to.

Equal parts with the same base address are one part.
"""

from __future__ import annotations

import json
import re
from typing import Any
from urllib.parse import unquote, urldefrag, urljoin

from token_engine.openvino_runtime.guide_grammar.grammar import GuideError
from token_engine.openvino_runtime.guide_grammar.json_reader.keywords import check_keywords

LONGEST_PLACE = 80  # characters of a JSON pointer that a refusal repeats
TRUE, FALSE = 0, 1  # the numbers of these two schemas
LATEST_DRAFT = 2020
_DRAFT = re.compile(r"json-schema\.org/(?:draft-0?([3-7])|draft/(2019|2020))")
_INDEX = re.compile("0|[1-9][0-9]{0,5}")


class Document:
    """The parts of one schema; each is a bool or a dict of keywords of the right form."""

    def __init__(self, root: Any) -> None:
        self.root = root
        self.draft = _draft_of(root)
        self.ignores_siblings = self.draft < 2019  # of $ref
        self._id = "id" if self.draft <= 4 else "$id"
        self._bases: dict[int, str] = {}  # by the id of a dict
        self._places: dict[int, str] = {}
        self._resources: dict[str, Any] = {"": root}  # by address
        self._anchors: dict[str, Any] = {}
        self._parts: list[Any] = [True, False]
        self._numbers: dict[int, int] = {}  # by the id of a dict
        self._same: dict[tuple[str, str], int] = {}
        self._walk()

    def number_of(self, part: Any) -> int:
        """The number of a part, which must be a schema; raises `GuideError`."""
        if isinstance(part, bool):
            return TRUE if part else FALSE
        if not isinstance(part, dict):
            raise GuideError(
                f"has {str(part)[:40]} at #; it must be a schema, which is an object or a boolean"
            )
        if id(part) not in self._numbers:
            key = self._bases.get(id(part), ""), json.dumps(part)
            if key not in self._same:
                check_keywords(part, self.place_of(part))
                self._same[key] = len(self._parts)
                self._parts.append(part)
            self._numbers[id(part)] = self._same[key]
        return self._numbers[id(part)]

    def numbers_below(self, part: dict[str, Any], keyword: str) -> list[int]:
        """The numbers of the schemas in a list or an object."""
        parts = part[keyword]
        named = enumerate(parts) if isinstance(parts, list) else parts.items()
        return [self._below(part, keyword, value, str(name)) for name, value in named]

    def number_below(self, part: dict[str, Any], keyword: str) -> int:
        """The number of the schema that a keyword has."""
        return self._below(part, keyword, part[keyword])

    def _below(self, part: dict[str, Any], keyword: str, value: Any, name: str = "") -> int:
        if not isinstance(value, bool | dict):
            place = self.place_of(part) + "/" + keyword + ("/" + escaped(name) if name else "")
            raise GuideError(
                f"has {str(value)[:40]} at {place[:LONGEST_PLACE]}; "
                "it must be a schema, which is an object or a boolean"
            )
        return self.number_of(value)

    def part(self, number: int) -> Any:
        """The part of a number."""
        return self._parts[number]

    def place_of(self, part: Any) -> str:
        """Where it is, or for a part made here, where its value comes from."""
        return self._places.get(id(part), "#")

    def end_of(self, part: dict[str, Any]) -> int:
        """The part to which `$ref` leads; raises `GuideError` if that is the same one again."""
        first = number = self._target_of(part)
        passed = {self.number_of(part)}
        while isinstance(target := self.part(number), dict) and "$ref" in target:
            if number in passed:
                raise self._wrong(part, "not lead back to itself")
            passed.add(number)
            number = self._target_of(target)
        return first

    def _target_of(self, part: dict[str, Any]) -> int:
        reference = part["$ref"]
        base = self._bases.get(id(part), "")
        address, fragment = urldefrag(_joined(base, reference))
        resource = self._resources.get(base if reference.startswith("#") else address)
        if resource is None:
            raise self._wrong(part, "point into the schema itself")
        if not fragment:
            return self.number_of(resource)
        if not fragment.startswith("/"):
            anchored = self._anchors.get(f"{address}#{fragment}")
            if anchored is None:
                raise self._wrong(part, "point to a part that exists")
            return self.number_of(anchored)
        found, target = _followed(resource, fragment)
        if not found or not isinstance(target, bool | dict):
            raise self._wrong(part, "point to a part that exists and is a schema")
        return self.number_of(target)

    def _wrong(self, part: dict[str, Any], must: str) -> GuideError:
        value, place = part["$ref"][:60], self.place_of(part)
        return GuideError(f"has the $ref {value!r} at {place}; it must {must}")

    def _walk(self) -> None:
        """Note where each object of the document is, and the addresses that it has."""
        waiting: list[tuple[Any, str, str]] = [(self.root, "#", "")]
        while waiting:
            value, place, base = waiting.pop()
            if isinstance(value, dict):
                base = self._noted(value, place, base)
                waiting += [
                    (inner, f"{place}/{escaped(name)}"[:LONGEST_PLACE], base)
                    for name, inner in value.items()
                    if isinstance(inner, dict | list)
                ]
            elif isinstance(value, list):
                waiting += [
                    (inner, f"{place}/{number}"[:LONGEST_PLACE], base)
                    for number, inner in enumerate(value)
                    if isinstance(inner, dict | list)
                ]

    def _noted(self, value: dict[str, Any], place: str, base: str) -> str:
        given = value.get(self._id)
        if isinstance(given, str):
            address, fragment = urldefrag(_joined(base, given))
            if fragment and not fragment.startswith("/"):
                self._anchors.setdefault(f"{address}#{fragment}", value)
            if address != base:
                base = address
                self._resources.setdefault(base, value)
        for name in ("$anchor", "$dynamicAnchor"):
            if isinstance(value.get(name), str):
                self._anchors.setdefault(f"{base}#{value[name]}", value)
        self._bases[id(value)] = base
        self._places[id(value)] = place
        return base


def _draft_of(root: Any) -> int:
    named = root.get("$schema") if isinstance(root, dict) else None
    found = _DRAFT.search(named) if isinstance(named, str) else None
    return int(found[1] or found[2]) if found else LATEST_DRAFT


def _joined(base: str, reference: str) -> str:
    try:
        return urljoin(base, reference)
    except ValueError:
        return reference


def _followed(resource: Any, pointer: str) -> tuple[bool, Any]:
    """Whether a pointer leads to something, and to what."""
    target = resource
    for part in pointer[1:].split("/"):
        name = unquote(part).replace("~1", "/").replace("~0", "~")
        if isinstance(target, dict) and name in target:
            target = target[name]
        elif isinstance(target, list) and _INDEX.fullmatch(name) and int(name) < len(target):
            target = target[int(name)]
        else:
            return False, None
    return True, target


def escaped(name: str) -> str:
    """A property's name as a JSON pointer has it."""
    return name.replace("~", "~0").replace("/", "~1")
