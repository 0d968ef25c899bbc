"""Random JSON schemas with every keyword, of each draft."""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import Any

from tests.support.json_schema_judge import DRAFTS

Fragment = dict[str, Any]
NAMES = ["a", "ab", "b", "é", '"', ""]
PATTERNS = ["^a", "b$", "^[a-c]{1,3}$", "a|b", "^x-", "", r"^\d+$", "^(a|ab)c?$", "[^a]", r"\."]
FORMATS = [
    "date", "time", "date-time", "email", "ipv4", "ipv6", "uuid", "uri", "hostname", "json-pointer",
    "duration", "uri-reference", "no-such-format",
]  # fmt: skip
TYPES = ["null", "boolean", "integer", "number", "string", "array", "object"]
NUMBERS = [0, 1, -1, 2, 3, 7, 10, 99, 100, 1000, -12, 0.5, -0.5, 1.5, 0.1, 2.25, 1e3, 12345678901]
DIVISORS = [1, 2, 3, 0.5, 0.1, 7, 100]
STRINGS = ["", "a", "b", "ab", "abc", "ac", "x-1", "1", "12", "é", '"', "\\", "\n", "😀", "a.b"]
ANNOTATIONS: list[Fragment] = [
    {"title": "t"}, {"description": "d"}, {"default": 1}, {"examples": [1]}, {"$comment": "c"},
    {"x-vendor": {"type": 1}}, {"readOnly": True}, {"links": [{}]}, {"name": "n"},
    {"nullable": True},
]  # fmt: skip


def random_schema(random: Random, draft: str) -> Fragment:
    """A schema of the draft, with `$schema` and two definitions that references lead to."""
    make = _Maker(random, draft)
    schema = make.schema(random.choice([1, 2, 2, 3]))
    definitions = {"d": make.schema(1), "e": make.schema(2)}
    whole = schema if isinstance(schema, dict) else {"allOf": [schema]}
    return {"$schema": DRAFTS[draft], **whole, make.definitions: definitions}


class _Maker:
    def __init__(self, random: Random, draft: str) -> None:
        self._random, self._draft = random, draft
        self._is_late = draft.startswith("20")
        self.definitions = "$defs" if self._is_late else "definitions"

    def schema(self, depth: int) -> Any:
        """Some keywords, with schemas at most `depth` deep inside."""
        if self._draft != "4" and self._random.random() < 0.04:
            return self._random.random() < 0.7
        made: Fragment = {}
        for _ in range(self._random.choice([0, 1, 1, 2, 2, 3, 4])):
            kinds: list[Callable[[int], Fragment]]
            kinds = [self._type, self._plain, self._values, self._string, self._number]
            if depth:
                kinds += [self._array, self._object, self._object, self._combined]
            fragment = self._random.choice(kinds)(depth - 1)
            if not fragment.keys() & made.keys():
                made |= fragment
        return made

    def _some(self, depth: int) -> list[Any]:
        return [self.schema(depth) for _ in range(self._random.randint(1, 3))]

    def _named(self, depth: int) -> Fragment:
        return {name: self.schema(depth) for name in self._names()}

    def _names(self, least: int = 0) -> list[str]:
        return self._random.sample(NAMES, self._random.randint(least, 3))

    def _size(self) -> int:
        return self._random.choice([0, 1, 1, 2, 3, 4])

    def value(self, depth: int = 2) -> Any:
        """Any JSON value."""
        kind = self._random.randrange(4 if depth else 2)
        if kind == 0:
            return self._random.choice([None, True, False, *NUMBERS])
        if kind == 1:
            return self._random.choice(STRINGS)
        several = [self.value(depth - 1) for _ in range(self._random.randrange(3))]
        return several if kind == 2 else dict(zip(NAMES, several, strict=False))

    def _plain(self, _depth: int) -> Fragment:
        return self._random.choice(ANNOTATIONS)

    def _type(self, _depth: int) -> Fragment:
        if self._random.random() < 0.7:
            return {"type": self._random.choice(TYPES)}
        return {"type": self._random.sample(TYPES, self._random.randint(1, 3))}

    def _values(self, _depth: int) -> Fragment:
        if self._draft != "4" and self._random.random() < 0.4:
            return {"const": self.value()}
        values = [self.value() for _ in range(self._random.randint(1, 4))]
        return {"enum": [v for n, v in enumerate(values) if all(v != w for w in values[:n])]}

    def _string(self, _depth: int) -> Fragment:
        name = self._random.choice(["minLength", "maxLength", "pattern", "format"])
        if name.endswith("Length"):
            return {name: self._size()}
        return {name: self._random.choice(PATTERNS if name == "pattern" else FORMATS)}

    def _number(self, _depth: int) -> Fragment:
        side = self._random.choice(["Minimum", "Maximum"])
        number = self._random.choice(NUMBERS)
        kind = self._random.randrange(4)
        if kind == 0:
            return {"multipleOf": self._random.choice(DIVISORS)}
        if kind == 1 and self._draft == "4":
            return {side.lower(): number, f"exclusive{side}": self._random.random() < 0.7}
        return {f"exclusive{side}" if kind == 1 else side.lower(): number}

    def _array(self, depth: int) -> Fragment:
        kinds = ["items", "list", "minItems", "maxItems", "uniqueItems"]
        kinds += [] if self._draft == "4" else ["contains"]
        kinds += ["counted", "unevaluatedItems"] if self._is_late else []
        kind = self._random.choice(kinds)
        if kind == "list":
            rest = {} if self._random.random() < 0.4 else {"additionalItems": self.schema(depth)}
            if self._draft != "2020-12":
                return {"items": self._some(depth), **rest}
            return {"prefixItems": self._some(depth)}
        if kind == "counted":
            counts = {name: self._size() for name in ("minContains", "maxContains")}
            return {"contains": self.schema(depth), **counts}
        if kind == "uniqueItems":
            return {kind: self._random.random() < 0.8}
        return {kind: self._size() if "I" in kind and kind[0] == "m" else self.schema(depth)}

    def _object(self, depth: int) -> Fragment:
        kinds = ["properties", "both", "required", "additionalProperties", "patternProperties"]
        kinds += ["minProperties", "maxProperties", "dependencies"]
        kinds += [] if self._draft == "4" else ["propertyNames"]
        kinds += ["unevaluatedProperties"] if self._is_late else []
        kind = self._random.choice(kinds)
        needed = {"required": self._names(least=self._draft == "4")}
        if kind in ("properties", "both"):
            return {"properties": self._named(depth), **(needed if kind == "both" else {})}
        if kind == "required":
            return needed
        if kind == "patternProperties":
            patterns = self._random.sample(PATTERNS, self._random.randint(1, 2))
            return {kind: {pattern: self.schema(depth) for pattern in patterns}}
        if kind == "dependencies":
            return self._dependencies(depth)
        if kind == "propertyNames" and self._random.random() < 0.7:
            return {kind: self._string(0)}
        if kind == "additionalProperties" and self._random.random() < 0.3:
            return {kind: self._random.random() < 0.3}
        return {kind: self._size() if kind[0] == "m" else self.schema(depth)}

    def _dependencies(self, depth: int) -> Fragment:
        names = {name: self._names(least=1) for name in self._names(least=1)}
        if self._is_late and self._random.random() < 0.5:
            return {"dependentRequired": names}
        if self._is_late:
            return {"dependentSchemas": self._named(depth)}
        return {"dependencies": {**names, **self._named(depth)}}

    def _combined(self, depth: int) -> Fragment:
        kinds = ["allOf", "anyOf", "oneOf", "not", "$ref"]
        kind = self._random.choice(kinds + ["if"] * (self._draft not in ("4", "6")))
        if kind == "not":
            return {kind: self.schema(depth)}
        if kind == "$ref":
            end = self._random.choice([f"/{self.definitions}/d", f"/{self.definitions}/e", ""])
            return {kind: f"#{end}"}
        if kind == "if":
            names = ["if", *self._random.choice([["then"], ["else"], ["then", "else"]])]
            return {name: self.schema(depth) for name in names}
        return {kind: self._some(depth)}
