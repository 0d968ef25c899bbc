"""`$ref` within a JSON schema."""

from __future__ import annotations

import re
from typing import Any
from urllib.parse import unquote

from token_engine.openvino_runtime.guide_grammar.grammar import ROOT, GuideError

_INDEX = re.compile("0|[1-9][0-9]{0,5}")


class References:
    """What the pointers of one document lead to. Each is followed once."""

    def __init__(self, document: Any) -> None:
        self._document = document
        self._found: dict[str, tuple[str, Any]] = {"#": (ROOT, document)}
        self._ends: dict[int, Any] = {}  # by the id of the schema that refers

    def find(self, pointer: Any) -> tuple[str, Any]:
        """The rule for what it leads to, one however it is spelled, and that; or `GuideError`."""
        if not isinstance(pointer, str) or not (pointer == "#" or pointer.startswith("#/")):
            raise GuideError(
                f"has the $ref {str(pointer)[:60]!r}, allowed is one into the schema itself: #/..."
            )
        if pointer not in self._found:
            self._found[pointer] = self._walk(pointer)
        return self._found[pointer]

    def end(self, schema: Any) -> Any:
        """What is behind a schema that refers to one that may refer; one of them if they loop."""
        passed: dict[int, None] = {}
        while isinstance(schema, dict) and "$ref" in schema and id(schema) not in passed:
            if id(schema) in self._ends:
                schema = self._ends[id(schema)]
                break
            passed[id(schema)] = None
            schema = self.find(schema["$ref"])[1]
        self._ends.update(dict.fromkeys(passed, schema))
        return schema

    def _walk(self, pointer: str) -> tuple[str, Any]:
        target = self._document
        names = [
            unquote(part).replace("~1", "/").replace("~0", "~") for part in pointer[2:].split("/")
        ]
        for name in names:
            if isinstance(target, dict) and name in target:
                target = target[name]
            elif isinstance(target, list) and _INDEX.fullmatch(name) and int(name) < len(target):
                target = target[int(name)]
            else:
                raise GuideError(
                    f"has the $ref {pointer[:60]!r}, allowed is one to a part that is there"
                )
        return "/".join(["#", *map(escaped, names)]), target


def escaped(name: str) -> str:
    """A property's name as a JSON pointer has it."""
    return name.replace("~", "~0").replace("/", "~1")
