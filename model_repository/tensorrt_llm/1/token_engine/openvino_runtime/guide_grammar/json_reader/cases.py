"""What schemas that hold at once leave of a value: cases, each of plain facts, without keywords.

A position in a value must match some schemas and must not match others: its `Key`. The keywords of
these are taken apart, one type of value at a time. Where a keyword leaves a choice (`anyOf`,
`oneOf`, `if`, or the negation of several keywords), each choice is a case of its own.

A case that cannot be told in plain facts is left out: fewer values are matched, never wrong ones.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

from token_engine.openvino_runtime.guide_grammar.grammar import GuideError
from token_engine.openvino_runtime.guide_grammar.json_reader.document import FALSE, TRUE, Document
from token_engine.openvino_runtime.guide_grammar.json_reader.keywords import (
    TYPES,
    is_finite,
    keywords_of,
    type_of,
    types_of,
)
from token_engine.openvino_runtime.guide_grammar.json_reader.numbers import (
    EQUAL,
    GREATER,
    LESS,
    Bound,
    Condition,
    Multiple,
)
from token_engine.openvino_runtime.guide_grammar.json_reader.strings import FORMATS, matching
from token_engine.openvino_runtime.guide_grammar.json_reader.work import WORK

MAX_CASES = 64  # of one position and type; further ones are left out
MAX_TRIED = 2_000
Literal = tuple[int, bool]  # the number of a schema, and whether it must match or must not
Key = tuple[Literal, ...]
IMPOSSIBLE: Key = ((FALSE, True),)
Item = tuple[str, Any, bool]  # what is still to be looked at: a kind, its value, a sign


@dataclass(frozen=True, slots=True)
class Members:
    """What one schema says of an object's members."""

    properties: dict[str, int]
    patterns: tuple[tuple[str, int], ...]
    additional: int


@dataclass(frozen=True, slots=True)
class Elements:
    """What one schema says of an array's items."""

    prefix: tuple[int, ...]
    rest: int


@dataclass(slots=True)
class Case:
    """Facts about a value of one type. Lists hold at once."""

    pending: list[Item] = field(default_factory=list)
    choices: list[list[list[Item]]] = field(default_factory=list)
    seen: set[Literal] = field(default_factory=set)
    values: list[Any] | None = None  # of no array or object; the only ones
    excluded: list[Any] = field(default_factory=list)
    texts: list[tuple[str, str, bool]] = field(default_factory=list)  # pattern or format
    conditions: list[Condition] = field(default_factory=list)
    is_integer: bool | None = None
    members: list[Members] = field(default_factory=list)
    elements: list[Elements] = field(default_factory=list)
    required: dict[str, None] = field(default_factory=dict)
    forbidden: set[str] = field(default_factory=set)
    beside: dict[Any, list[Literal]] = field(default_factory=dict)  # by a name or an index
    rest: list[tuple[int, Literal]] = field(default_factory=list)  # of items from an index on
    names: list[Literal] = field(default_factory=list)  # of all properties
    least: int = 0  # characters, items or properties
    most: int | None = None
    is_unique: bool = False

    def copy(self) -> Case:
        """An independent one."""
        return Case(
            list(self.pending), list(self.choices), set(self.seen), self.values,
            list(self.excluded), list(self.texts), list(self.conditions), self.is_integer,
            list(self.members), list(self.elements), dict(self.required), set(self.forbidden),
            {name: list(literals) for name, literals in self.beside.items()}, list(self.rest),
            list(self.names), self.least, self.most, self.is_unique,
        )  # fmt: skip


@dataclass(frozen=True, slots=True)
class Found:
    """The cases of a key and a type; `reason` says why some are left out, if any are."""

    cases: tuple[Case, ...]
    reason: str = ""


class Cases:
    """The cases of the positions of one document."""

    def __init__(self, document: Document) -> None:
        self.document = document
        self._found: dict[tuple[Key, str], Found] = {}
        self._open: set[tuple[Key, str]] = set()
        self._reason = ""
        self._constants: dict[int, Any] = {}

    def of(self, key: Key, type_name: str) -> Found:
        """The cases that are left of a position, for values of one type."""
        if (key, type_name) not in self._found:
            if (key, type_name) in self._open:
                return Found((), "a schema that leads back to itself")
            outer, self._reason = self._reason, ""
            self._open.add((key, type_name))
            cases = tuple(self._solved(key, type_name))
            self._open.remove((key, type_name))
            self._found[key, type_name] = Found(cases, self._reason)
            self._reason = outer
        return self._found[key, type_name]

    def is_empty(self, key: Key) -> bool:
        """True only if no value matches."""
        if key in ((), IMPOSSIBLE):
            return key == IMPOSSIBLE
        return all(self._has_none(key, name) for name in TYPES)

    def _has_none(self, key: Key, type_name: str) -> bool:
        found = self.of(key, type_name)
        return not found.cases and not found.reason

    def _solved(self, key: Key, type_name: str) -> Iterator[Case]:
        waiting = [Case([("schema", number, sign) for number, sign in key])]
        count = tried = 0
        while waiting:
            case = waiting.pop()
            tried += 1
            if count >= MAX_CASES or tried > MAX_TRIED:
                self._reason = f"more than {MAX_CASES} alternatives at once"
                return
            if not self._settle(case, type_name):
                continue
            if not case.choices:
                if self._is_possible(case, type_name):
                    count += 1
                    yield case
                continue
            choice = case.choices.pop(0)
            for alternative in reversed(choice):
                WORK.spend(1 + len(case.seen) // 8)
                other = case.copy()
                other.pending = list(alternative)
                waiting.append(other)

    def _settle(self, case: Case, type_name: str) -> bool:
        """Look at all that is pending; False if it contradicts itself."""
        place = 0
        while place < len(case.pending):
            WORK.spend(1)
            kind, value, sign = case.pending[place]
            place += 1
            if kind == "schema":
                holds = self._schema(case, type_name, value, sign)
            elif kind == "keyword":
                name, number = value
                holds = self._keyword(case, type_name, name, number, sign)
            else:
                holds = _FACTS[kind](case, value, sign)
            if not holds:
                return False
        case.pending.clear()
        return True

    def _schema(self, case: Case, type_name: str, number: int, sign: bool) -> bool:
        if (number, not sign) in case.seen:
            return False
        if (number, sign) in case.seen:
            return True
        case.seen.add((number, sign))
        schema = self.document.part(number)
        if isinstance(schema, bool):
            return schema is sign
        if "$ref" in schema and self.document.ignores_siblings:
            case.pending.append(("keyword", ("$ref", number), sign))
            return True
        types = types_of(schema)
        only_integers = types is not None and type_name == "number" and "number" not in types
        if types is not None and type_name not in types:
            if not (only_integers and "integer" in types):
                return not sign
        elif only_integers:
            only_integers = False
        items: list[Item] = [("integer", None, sign)] if only_integers else []
        items += [("keyword", (name, number), sign) for name in keywords_of(schema, type_name)]
        if sign:
            case.pending += items
        else:
            case.choices.append([[item] for item in items])
        return sign or bool(items)

    def _keyword(self, case: Case, type_name: str, name: str, number: int, sign: bool) -> bool:
        schema = self.document.part(number)
        handler = getattr(self, "_" + name.lstrip("$"), None)
        if handler is None:
            raise GuideError(
                f"has the keyword {name!r} at {self.document.place_of(schema)}; "
                "it must do without, because it is not served"
            )
        choice: list[list[Item]] = handler(schema, type_name, sign)
        if len(choice) == 1:
            case.pending += choice[0]
        elif choice:
            case.choices.append(choice)
        return bool(choice)

    def _left_out(self, reason: str) -> list[list[Item]]:
        """No alternative, because the facts cannot say what it is."""
        self._reason = reason
        return []

    # Of any type. Each returns the alternatives, of which one must hold.

    def _ref(self, schema: dict[str, Any], _type: str, sign: bool) -> list[list[Item]]:
        return [[("schema", self.document.end_of(schema), sign)]]

    def _enum(self, schema: dict[str, Any], type_name: str, sign: bool) -> list[list[Item]]:
        return self._one_of_values(schema["enum"], type_name, sign)

    def _const(self, schema: dict[str, Any], type_name: str, sign: bool) -> list[list[Item]]:
        return self._one_of_values([schema["const"]], type_name, sign)

    def _one_of_values(self, values: list[Any], name: str, sign: bool) -> list[list[Item]]:
        chosen = [value for value in values if type_of(value) == name]
        if name == "number" and not all(map(is_finite, chosen)):
            raise GuideError("has a number that is not finite; it must be one that JSON can write")
        WORK.spend(len(values))
        if name not in ("array", "object"):
            return [[("values", chosen, sign)]] if chosen or not sign else []
        literals: list[Item] = [("schema", self._constant(value), sign) for value in chosen]
        return [[literal] for literal in literals] if sign else [literals]

    def _constant(self, value: Any) -> int:
        """The number of a schema that matches an array or object alone."""
        if id(value) not in self._constants:
            if isinstance(value, list):
                schema: Any = {
                    "prefixItems": [{"const": item} for item in value],
                    "minItems": len(value), "maxItems": len(value),
                }  # fmt: skip
            else:
                schema = {
                    "properties": {name: {"const": inner} for name, inner in value.items()},
                    "required": list(value), "additionalProperties": False,
                }  # fmt: skip
            # Kept, so that no other object gets its id.
            self._constants[id(value)] = schema
        return self.document.number_of(self._constants[id(value)])

    def _allOf(self, schema: dict[str, Any], _type: str, sign: bool) -> list[list[Item]]:
        literals: list[Item] = [
            ("schema", number, sign) for number in self.document.numbers_below(schema, "allOf")
        ]
        return [literals] if sign else [[literal] for literal in literals]

    def _anyOf(self, schema: dict[str, Any], _type: str, sign: bool) -> list[list[Item]]:
        literals: list[Item] = [
            ("schema", number, sign) for number in self.document.numbers_below(schema, "anyOf")
        ]
        return [[literal] for literal in literals] if sign else [literals]

    def _oneOf(self, schema: dict[str, Any], name: str, sign: bool) -> list[list[Item]]:
        numbers = self.document.numbers_below(schema, "oneOf")
        overlaps = {
            (a, b)
            for place, a in enumerate(numbers)
            for b in numbers[:place]
            if not self._has_none(((b, True), (a, True)), name)
        }
        if sign:
            return [
                [("schema", one, True)]
                + [
                    ("schema", other, False)
                    for at, other in enumerate(numbers)
                    if at != place and {(one, other), (other, one)} & overlaps
                ]
                for place, one in enumerate(numbers)
            ]
        none: list[list[Item]] = [[("schema", number, False) for number in numbers]]
        return none + [[("schema", a, True), ("schema", b, True)] for a, b in sorted(overlaps)]

    def _not(self, schema: dict[str, Any], _type: str, sign: bool) -> list[list[Item]]:
        return [[("schema", self.document.number_below(schema, "not"), not sign)]]

    def _if(self, schema: dict[str, Any], _type: str, sign: bool) -> list[list[Item]]:
        condition = self.document.number_below(schema, "if")
        choice: list[list[Item]] = []
        for keyword, holds in (("then", True), ("else", False)):
            number = self.document.number_below(schema, keyword) if keyword in schema else TRUE
            if sign or number != TRUE:
                choice.append([("schema", condition, holds), ("schema", number, sign)])
        return choice

    # Of numbers and strings.

    def _minimum(self, schema: dict[str, Any], _type: str, sign: bool) -> list[list[Item]]:
        is_open = schema.get("exclusiveMinimum") is True
        return _bound(schema["minimum"], (GREATER,) if is_open else (GREATER, EQUAL), sign)

    def _maximum(self, schema: dict[str, Any], _type: str, sign: bool) -> list[list[Item]]:
        is_open = schema.get("exclusiveMaximum") is True
        return _bound(schema["maximum"], (LESS,) if is_open else (LESS, EQUAL), sign)

    def _exclusiveMinimum(self, schema: dict[str, Any], _type: str, sign: bool) -> list[list[Item]]:
        value = schema["exclusiveMinimum"]
        if isinstance(value, bool):  # said with minimum
            return [[]] if sign else []
        return _bound(value, (GREATER,), sign)

    def _exclusiveMaximum(self, schema: dict[str, Any], _type: str, sign: bool) -> list[list[Item]]:
        value = schema["exclusiveMaximum"]
        if isinstance(value, bool):
            return [[]] if sign else []
        return _bound(value, (LESS,), sign)

    def _multipleOf(self, schema: dict[str, Any], _type: str, sign: bool) -> list[list[Item]]:
        return [[("condition", Multiple(_fraction(schema["multipleOf"]), sign), True)]]

    def _pattern(self, schema: dict[str, Any], _type: str, sign: bool) -> list[list[Item]]:
        return [[("text", ("pattern", schema["pattern"]), sign)]]

    def _format(self, schema: dict[str, Any], _type: str, sign: bool) -> list[list[Item]]:
        name = schema["format"]
        if not isinstance(name, str) or name not in FORMATS:
            return [[]] if sign else []
        if not sign:  # not all of its texts are known here
            return self._left_out(f"what has not the format {name!r}")
        return [[("text", ("format", name), True)]]

    def _minLength(self, schema: dict[str, Any], _type: str, sign: bool) -> list[list[Item]]:
        return _at_least(schema["minLength"], sign)

    def _maxLength(self, schema: dict[str, Any], _type: str, sign: bool) -> list[list[Item]]:
        return _at_least(schema["maxLength"] + 1, not sign)

    # Of arrays.

    def _items(self, schema: dict[str, Any], _type: str, sign: bool) -> list[list[Item]]:
        document = self.document
        listed = "prefixItems" if "prefixItems" in schema else "items"
        prefix: list[int] = []
        keyword = "items"
        if isinstance(schema.get(listed), list):
            prefix = document.numbers_below(schema, listed)
            keyword = "items" if listed == "prefixItems" else "additionalItems"
        elif "items" not in schema:
            keyword = ""  # additionalItems alone say nothing
        rest = document.number_below(schema, keyword) if keyword in schema else TRUE
        if sign:
            return [[("elements", Elements(tuple(prefix), rest), True)]]
        wrong = [*enumerate(prefix), (len(prefix), rest)]
        return [
            [("at", (index, (number, False)), True)] for index, number in wrong if number != TRUE
        ]

    def _minItems(self, schema: dict[str, Any], _type: str, sign: bool) -> list[list[Item]]:
        return _at_least(schema["minItems"], sign)

    def _maxItems(self, schema: dict[str, Any], _type: str, sign: bool) -> list[list[Item]]:
        return _at_least(schema["maxItems"] + 1, not sign)

    def _uniqueItems(self, schema: dict[str, Any], _type: str, sign: bool) -> list[list[Item]]:
        if not schema["uniqueItems"]:
            return [[]] if sign else []
        return [[("unique", None, True)]] if sign else self._left_out("items that are not unique")

    def _contains(self, schema: dict[str, Any], _type: str, sign: bool) -> list[list[Item]]:
        number = self.document.number_below(schema, "contains")
        least, most = int(schema.get("minContains", 1)), schema.get("maxContains")
        if not sign:
            if least == 1 and most is None:
                return [[("rest", (0, (number, False)), True)]]
            return self._left_out("what contains fewer or more items")
        if most is not None and most < least:
            return []
        # The first items are those that match.
        chosen: list[Item] = [("at", (index, (number, True)), True) for index in range(least)]
        if most is None:
            return [chosen]
        none: list[Item] = [("rest", (least, (number, False)), True)]
        return [chosen + none]

    # Of objects.

    def _properties(self, schema: dict[str, Any], _type: str, sign: bool) -> list[list[Item]]:
        document = self.document
        named = schema.get("properties", {})
        numbers = document.numbers_below(schema, "properties") if named else []
        properties = dict(zip(named, numbers, strict=True))
        patterned = schema.get("patternProperties", {})
        matched = document.numbers_below(schema, "patternProperties") if patterned else []
        patterns = tuple(zip(patterned, matched, strict=True))
        additional = TRUE
        if "additionalProperties" in schema:
            additional = document.number_below(schema, "additionalProperties")
        if sign:
            needed: list[Item] = [
                ("require", name, True)
                for name, inner in named.items()
                if isinstance(inner, dict) and inner.get("required") is True
            ]
            return [[("members", Members(properties, patterns, additional), True), *needed]]
        if patterns or additional != TRUE:
            self._left_out("what has other properties than a schema allows")
        return [
            [("require", name, True), ("beside", (name, (number, False)), True)]
            for name, number in properties.items()
            if number != TRUE
        ]

    def _required(self, schema: dict[str, Any], _type: str, sign: bool) -> list[list[Item]]:
        if isinstance(schema["required"], bool):
            return [[]] if sign else []
        needed: list[Item] = [("require", name, sign) for name in schema["required"]]
        return [needed] if sign else [[item] for item in needed]

    def _minProperties(self, schema: dict[str, Any], _type: str, sign: bool) -> list[list[Item]]:
        return _at_least(schema["minProperties"], sign)

    def _maxProperties(self, schema: dict[str, Any], _type: str, sign: bool) -> list[list[Item]]:
        return _at_least(schema["maxProperties"] + 1, not sign)

    def _propertyNames(self, schema: dict[str, Any], _type: str, sign: bool) -> list[list[Item]]:
        if not sign:
            return self._left_out("what has other names of properties than a schema allows")
        return [[("names", (self.document.number_below(schema, "propertyNames"), True), True)]]

    def _dependencies(self, schema: dict[str, Any], _type: str, sign: bool) -> list[list[Item]]:
        ways = list(self._depending(schema, sign))
        if not sign:
            return ways
        # Each by itself: the name is there and what it asks for is met, or it is not there.
        return [[("choice", [way, [("require", way[0][1], False)]], True) for way in ways]]

    def _depending(self, schema: dict[str, Any], sign: bool) -> Iterator[list[Item]]:
        """What each name asks for; not `sign`: the ways in which one of them is not met."""
        for keyword in ("dependencies", "dependentRequired", "dependentSchemas"):
            for name, value in schema.get(keyword, {}).items():
                present: Item = ("require", name, True)
                if isinstance(value, bool | dict):
                    met: list[Item] = [("schema", self.document.number_of(value), sign)]
                elif keyword == "dependentSchemas":
                    self.document.numbers_below(schema, keyword)  # which refuses it
                else:
                    names = value if isinstance(value, list) else [value]
                    met = [("require", one, sign) for one in names]
                if sign:
                    yield [present, *met]
                else:
                    yield from ([present, item] for item in met)

    def _is_possible(self, case: Case, type_name: str) -> bool:
        """Whether each property that must be there can have a value."""
        if type_name == "object":
            return not any(self.is_empty(self.key_of_member(case, name)) for name in case.required)
        return True

    def key_of_member(self, case: Case, name: str) -> Key:
        """What the member of a name must match."""
        if name in case.forbidden:
            return IMPOSSIBLE
        literals = list(case.beside.get(name, ()))
        for members in case.members:
            numbers = [members.properties[name]] if name in members.properties else []
            numbers += [n for pattern, n in members.patterns if name in matching(pattern)]
            literals += [(number, True) for number in numbers or [members.additional]]
        return key_of(literals)


def _integer(case: Case, _value: Any, sign: bool) -> bool:
    if case.is_integer is (not sign):
        return False
    case.is_integer = sign
    return True


def _values(case: Case, values: list[Any], sign: bool) -> bool:
    if not sign:
        case.excluded += values
    elif case.values is None:
        case.values = values
    else:
        case.values = [value for value in case.values if value in values]
    return bool(case.values is None or case.values)


def _require(case: Case, name: str, sign: bool) -> bool:
    if sign:
        case.required[name] = None
    else:
        case.forbidden.add(name)
    return not (name in case.required and name in case.forbidden)


def _at(case: Case, value: tuple[int, Literal], _sign: bool) -> bool:
    index, literal = value
    case.beside.setdefault(index, []).append(literal)
    case.least = max(case.least, index + 1)
    return case.most is None or case.least <= case.most


def _beside(case: Case, value: tuple[str, Literal], _sign: bool) -> bool:
    case.beside.setdefault(value[0], []).append(value[1])
    return True


def _least(case: Case, count: int, _sign: bool) -> bool:
    case.least = max(case.least, count)
    return case.most is None or case.least <= case.most


def _most(case: Case, count: int, _sign: bool) -> bool:
    case.most = count if case.most is None else min(case.most, count)
    return case.least <= case.most


def _unique(case: Case, _value: Any, _sign: bool) -> bool:
    case.is_unique = True
    return True


def _listed(name: str) -> Callable[[Case, Any, bool], bool]:
    """What adds to a list of facts."""

    def add(case: Case, value: Any, sign: bool) -> bool:
        getattr(case, name).append((*value, sign) if name == "texts" else value)
        return True

    return add


_FACTS: dict[str, Callable[[Case, Any, bool], bool]] = {
    "integer": _integer, "values": _values, "require": _require, "at": _at, "beside": _beside,
    "least": _least, "most": _most, "unique": _unique, "condition": _listed("conditions"),
    "text": _listed("texts"), "elements": _listed("elements"), "rest": _listed("rest"),
    "members": _listed("members"), "names": _listed("names"), "choice": _listed("choices"),
}  # fmt: skip


def _fraction(value: float) -> Fraction:
    """As it is written, in decimal digits."""
    return Fraction(str(value))


def _bound(value: float, allowed: tuple[int, ...], sign: bool) -> list[list[Item]]:
    chosen = {LESS, EQUAL, GREATER}
    chosen = chosen & set(allowed) if sign else chosen - set(allowed)
    return [[("condition", Bound(_fraction(value), frozenset(chosen)), True)]]


def _at_least(count: float, sign: bool) -> list[list[Item]]:
    if sign:
        return [[("least", int(count), True)]]
    return [[("most", int(count) - 1, True)]] if count > 0 else []


def key_of(literals: list[Literal]) -> Key:
    """All of them at once."""
    if (FALSE, True) in literals or (TRUE, False) in literals:
        return IMPOSSIBLE
    return tuple(
        dict.fromkeys(one for one in literals if one not in ((TRUE, True), (FALSE, False)))
    )
