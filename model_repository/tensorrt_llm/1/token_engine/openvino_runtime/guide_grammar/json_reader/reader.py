"""A JSON schema (drafts 4 to 2020-12), read into a grammar.

Whatever the grammar matches is valid against the schema. It does not match everything valid: the
README of the runtime lists what is left out.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any

from token_engine.openvino_runtime.guide_grammar.grammar import (
    ROOT,
    Alt,
    Call,
    Grammar,
    GuideError,
    Node,
    literal,
)
from token_engine.openvino_runtime.guide_grammar.json_reader.arrays import ArrayWriter
from token_engine.openvino_runtime.guide_grammar.json_reader.cases import (
    IMPOSSIBLE,
    Case,
    Cases,
    Key,
)
from token_engine.openvino_runtime.guide_grammar.json_reader.document import Document
from token_engine.openvino_runtime.guide_grammar.json_reader.keywords import TYPES
from token_engine.openvino_runtime.guide_grammar.json_reader.languages import (
    ANYTHING,
    NOTHING,
    Language,
    either,
    either_of,
    parts_of,
)
from token_engine.openvino_runtime.guide_grammar.json_reader.numbers import graph_of
from token_engine.openvino_runtime.guide_grammar.json_reader.objects import ObjectWriter
from token_engine.openvino_runtime.guide_grammar.json_reader.scalars import (
    number_language,
    string_language,
)
from token_engine.openvino_runtime.guide_grammar.json_reader.strings import quoted
from token_engine.openvino_runtime.guide_grammar.json_reader.values import (
    INTEGER,
    NUMBER,
    SHARED,
    VALUE,
    json_rules,
    object_or_array,
)
from token_engine.openvino_runtime.guide_grammar.networks import calls_of

CALLED_DEPTH = 4  # every so many levels a rule is called, not copied
MAX_RULES = 5_000
CONSTANTS = {None: "null", True: "true", False: "false"}


@dataclass(frozen=True, slots=True)
class Effort:
    """How much of what is valid is matched; less takes fewer states."""

    spare_states: int  # for names that a schema does not name, in all
    longest_text: int  # characters of a string with maxLength
    all_cases: bool  # of objects and arrays


EFFORTS = (
    Effort(160, 256, True),
    Effort(40, 256, True),
    Effort(1, 64, True),
    Effort(1, 64, False),
)


def read_json_schema(schema: Any, effort: Effort = EFFORTS[0]) -> Grammar:
    """Read a schema that `json.loads` gave; raises `GuideError`."""
    return _Reader(schema, effort).read()


def any_json() -> Grammar:
    """Any JSON object or array: what upstream's guide type `json` is (xgrammar's own grammar)."""
    return Grammar({**json_rules(), ROOT: object_or_array()}, SHARED)


class _Reader:
    def __init__(self, schema: Any, effort: Effort) -> None:
        self._document = Document(schema)
        self._cases = Cases(self._document)
        self._effort = effort
        self._rules = json_rules()
        self._names: dict[Key, str] = {}
        self._depths: dict[str, int] = {}
        self._waiting: list[Key] = []
        self._texts: dict[tuple[Language, bool], str] = {}
        self._depth = 0

    def read(self) -> Grammar:
        root = self._document.number_of(self._document.root)
        key: Key = () if self._document.root in (True, {}) else ((root, True),)
        self._rules[ROOT] = self.value(key)
        while self._waiting:
            key = self._waiting.pop()
            name = self._names[key]
            self._depth = self._depths[name] + 1
            self._rules[name] = self._read_key(key)
            if len(self._rules) > MAX_RULES:
                raise GuideError(f"has more than {MAX_RULES} different parts; it must be simpler")
        return Grammar(self._rules, frozenset(self._called()))

    def value(self, key: Key) -> Node:
        """What matches a key, to be called."""
        if key == ():
            return Call(VALUE)
        if key == IMPOSSIBLE:
            return Alt(())
        if key not in self._names:
            part = self._document.part(key[0][0])
            name = f"{self._document.place_of(part)} ({len(self._names)})"
            self._names[key] = name
            self._depths[name] = self._depth
            self._waiting.append(key)
        return Call(self._names[key])

    def _called(self) -> set[str]:
        """Rules that are called, not copied: used more than once, or deep."""
        counts = Counter(name for node in self._rules.values() for name in calls_of(node))
        called = {name for name, count in counts.items() if count > 1} | SHARED
        return called | {n for n, d in self._depths.items() if d % CALLED_DEPTH == CALLED_DEPTH - 1}

    def _read_key(self, key: Key) -> Node:
        place = self._document.place_of(self._document.part(key[0][0]))
        reason = ""
        alternatives: list[Node] = []
        try:
            for type_name in TYPES:
                found = self._cases.of(key, type_name)
                reason = reason or found.reason
                alternatives += self._alternatives(type_name, list(found.cases))
        except GuideError as error:
            raise GuideError(_placed(str(error), place)) from None
        if not alternatives and reason:
            raise GuideError(
                f"has at {place} what cannot be served ({reason}); it must be said another way"
            )
        return Alt(tuple(alternatives))

    def _alternatives(self, type_name: str, cases: list[Case]) -> list[Node]:
        if not cases:
            return []
        if type_name == "null":
            return [literal("null")] if any(_has(case, None) for case in cases) else []
        if type_name == "boolean":
            return [
                literal(CONSTANTS[value])
                for value in (True, False)
                if any(_has(case, value) for case in cases)
            ]
        if type_name == "number":
            return self._numbers(cases)
        if type_name == "string":
            return self._strings(cases)
        if not self._effort.all_cases:
            del cases[1:]
        if type_name == "array":
            return [ArrayWriter(self.value, self.kinds, case).node() for case in cases]
        spare = self._effort.spare_states
        return [
            ObjectWriter(self._cases, self.value, self.name_language, case, spare).node()
            for case in cases
        ]

    def _numbers(self, cases: list[Case]) -> list[Node]:
        plain = [case for case in cases if _is_plain_number(case)]
        if any(case.is_integer is None for case in plain):
            return [Call(NUMBER)]
        found = NOTHING
        for case in cases:
            if case not in plain:
                found = either(found, number_language(case))
        if plain:
            if found.is_empty:
                return [Call(INTEGER)]
            found = either(found, number_language(plain[0]))
        return [] if found.is_empty else [self._text(found, is_number=True)]

    def _strings(self, cases: list[Case]) -> list[Node]:
        found = NOTHING
        for case in cases:
            language = string_language(case, self._effort.longest_text)
            if language == ANYTHING:
                return [quoted(ANYTHING)]
            found = language if found.is_empty else either(found, language)
        return [] if found.is_empty else [self._text(found)]

    def _text(self, language: Language, is_number: bool = False) -> Node:
        """A rule for the texts of a language, the same for all that are alike."""
        key = language, is_number
        if key not in self._texts:
            self._texts[key] = f"text {len(self._texts)}"
            node = graph_of(language) if is_number else quoted(language)
            self._rules[self._texts[key]] = node
        return Call(self._texts[key])

    def kinds(self, key: Key) -> list[Node]:
        """Nodes of which no two match the same value, together some of what matches the key."""
        if key == IMPOSSIBLE:
            return []
        found: list[Node] = []
        for type_name in TYPES:
            cases = list(self._cases.of(key, type_name).cases)
            alternatives = self._alternatives(type_name, cases)
            if type_name == "string" and cases:
                language = self.name_language(key)
                found += [self._text(one) for one in parts_of(language)]
            elif type_name == "number" and cases:
                language = either_of(number_language(case) for case in cases)
                found += [self._text(one, is_number=True) for one in parts_of(language)]
            else:
                found += alternatives
        return found

    def name_language(self, key: Key) -> Language:
        """The strings that match a key."""
        if key == ():
            return ANYTHING
        cases = self._cases.of(key, "string").cases
        return either_of(string_language(case, self._effort.longest_text) for case in cases)


def _has(case: Case, value: bool | None) -> bool:
    return (case.values is None or value in case.values) and value not in case.excluded


def _is_plain_number(case: Case) -> bool:
    return not (case.conditions or case.excluded or case.values is not None) and (
        case.is_integer is not False
    )


def _placed(message: str, place: str) -> str:
    """The message with its place, unless it has one."""
    if " at #" in message:
        return message
    wrong, _, must = message.rpartition("; ")
    return f"{wrong} at {place}; {must}"
