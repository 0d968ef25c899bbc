"""A JSON schema (draft 2020-12's everyday part), read into a grammar.

Whatever the grammar matches is valid against the schema; not everything valid is matched: the
properties come in the schema's order, only those it names come where it names some, and values of
`enum` are written in one way. A keyword that would not be honoured is refused by name.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from urllib.parse import unquote

from guide_language.alternatives import are_apart
from guide_language.grammar import (
    ROOT,
    Alt,
    Call,
    Grammar,
    GuideError,
    Joined,
    Node,
    Repeat,
    Seq,
    literal,
    optional,
)
from guide_language.json_numbers import integers_between, numbers_between
from guide_language.json_strings import string_of_format, string_of_length, string_of_pattern
from guide_language.json_values import (
    COLON,
    COMMA,
    INTEGER,
    NUMBER,
    SHARED,
    STRING,
    VALUE,
    any_value,
    braced,
    json_literal,
    json_rules,
)
from guide_language.schema_keywords import check_keywords, matches_type, types_of

MAX_ONE_OF = 100  # each is compared with each


def read_json_schema(schema: Any) -> Grammar:
    """Read a schema that `json.loads` gave; raises `GuideError`."""
    return _Reader(schema).read()


def any_json() -> Grammar:
    """Any JSON value."""
    rules = json_rules()
    # A copy: the rules within are then always followed by something, which makes them cheaper.
    return Grammar({**rules, ROOT: any_value(rules[STRING], rules[NUMBER])}, SHARED)


class _Reader:
    def __init__(self, schema: Any) -> None:
        self._schema = schema
        self._rules = json_rules()
        self._shared = set(SHARED)
        self._waiting: list[str] = []  # references met and not read yet

    def read(self) -> Grammar:
        self._rules[ROOT] = self._node(self._schema, "#")
        while self._waiting:
            pointer = self._waiting.pop()
            if pointer not in self._rules:
                self._rules[pointer] = self._node(self._target(pointer), pointer)
        return Grammar(self._rules, frozenset(self._shared))

    def _node(self, schema: Any, where: str) -> Node:
        """What a schema matches; `where` is its JSON pointer."""
        if schema is True:
            return Call(VALUE)
        if not isinstance(schema, dict):
            raise GuideError(
                f"has {str(schema)[:40]} at {where}, allowed are a schema object and true"
            )
        keywords = check_keywords(schema, where)
        try:
            return self._of_keywords(schema, keywords, where)
        except GuideError as error:
            message = str(error)
            raise GuideError(message if " at #" in message else _placed(message, where)) from None

    def _of_keywords(self, schema: dict[str, Any], keywords: set[str], where: str) -> Node:
        if "$ref" in keywords:
            return self._reference(schema["$ref"])
        if "allOf" in keywords:
            return self._node(schema["allOf"][0], f"{where}/allOf/0")
        if keywords & {"anyOf", "oneOf"}:
            return self._alternatives(schema, "anyOf" if "anyOf" in keywords else "oneOf", where)
        types = types_of(schema)
        if keywords & {"const", "enum"}:
            values = schema["enum"] if "enum" in keywords else [schema["const"]]
            chosen = [value for value in values if not types or matches_type(value, types)]
            return Alt(tuple(json_literal(value) for value in chosen))
        if not types:
            return Call(VALUE)
        readers: dict[str, Callable[[], Node]] = {
            "string": lambda: self._string(schema),
            "integer": lambda: integers_between(schema) if _is_bounded(schema) else Call(INTEGER),
            "number": lambda: numbers_between(schema) if _is_bounded(schema) else Call(NUMBER),
            "boolean": lambda: Alt((literal("true"), literal("false"))),
            "null": lambda: literal("null"),
            "array": lambda: self._array(schema, where),
            "object": lambda: self._object(schema, where),
        }
        return Alt(tuple(readers[name]() for name in types))

    def _reference(self, pointer: Any) -> Node:
        if not isinstance(pointer, str) or not (pointer == "#" or pointer.startswith("#/")):
            raise GuideError(
                f"has the $ref {str(pointer)[:60]!r}, allowed is one into the schema itself: #/..."
            )
        if pointer == "#":
            return Call(ROOT)
        self._waiting.append(pointer)
        return Call(pointer)

    def _target(self, pointer: str) -> Any:
        target = self._schema
        for part in pointer[2:].split("/"):
            name = unquote(part).replace("~1", "/").replace("~0", "~")
            if isinstance(target, dict) and name in target:
                target = target[name]
            elif isinstance(target, list) and name.isdecimal() and int(name) < len(target):
                target = target[int(name)]
            else:
                raise GuideError(
                    f"has the $ref {pointer[:60]!r}, allowed is one to a part that is there"
                )
        return target

    def _alternatives(self, schema: dict[str, Any], keyword: str, where: str) -> Node:
        schemas = schema[keyword]
        if keyword == "oneOf":
            self._check_apart(schemas, where)
        return Alt(tuple(self._node(s, f"{where}/{keyword}/{n}") for n, s in enumerate(schemas)))

    def _check_apart(self, schemas: list[Any], where: str) -> None:
        if len(schemas) > MAX_ONE_OF:
            raise GuideError(f"has {len(schemas)} schemas in oneOf, allowed are {MAX_ONE_OF}")
        resolved = [self._resolved(schema) for schema in schemas]
        for number, left in enumerate(resolved):
            for other, right in enumerate(resolved[:number]):
                if not are_apart(left, right):
                    raise GuideError(
                        f"has a oneOf at {where} of which {other} and {number} may both match, "
                        "allowed are schemas that differ in type or in a required constant"
                    )

    def _resolved(self, schema: Any) -> Any:
        for _ in range(len(self._rules) + 32):
            if not (isinstance(schema, dict) and isinstance(schema.get("$ref"), str)):
                break
            pointer = schema["$ref"]
            schema = self._schema if pointer == "#" else self._target(pointer)
        return schema

    def _string(self, schema: dict[str, Any]) -> Node:
        asked = [name for name in ("pattern", "format", "length") if _asks(schema, name)]
        if len(asked) > 1:
            raise GuideError(f"has {' and '.join(asked)} for one string, allowed is one of them")
        if not asked:
            return Call(STRING)
        if "pattern" in schema:
            name, node = f"# {schema['pattern']}", string_of_pattern(schema["pattern"])
        elif "format" in schema:
            name, node = f"# {schema['format']}", string_of_format(schema["format"])
        else:
            least, most = schema.get("minLength", 0), schema.get("maxLength")
            name, node = f"# {least} to {most}", string_of_length(least, most)
        return self._shared_rule(f"{name} string", node)

    def _shared_rule(self, name: str, node: Node) -> Node:
        """A rule of its own: what is used or repeated often is then not copied."""
        if isinstance(node, Call):
            return node
        self._rules[name] = node
        self._shared.add(name)
        return Call(name)

    def _array(self, schema: dict[str, Any], where: str) -> Node:
        least, most = schema.get("minItems", 0), schema.get("maxItems")
        prefix = [
            self._item(item, f"{where}/prefixItems/{number}")
            for number, item in enumerate(schema.get("prefixItems", ()))
        ][:most]
        further = None
        if schema.get("items", True) is not False and (most is None or most > len(prefix)):
            further = self._item(schema.get("items", True), f"{where}/items")
        if least > (len(prefix) if further is None else least if most is None else most):
            raise GuideError(f"has minItems {least} above what else it says, allowed is less")
        if not prefix:
            if further is None:
                return literal("[]")
            if not least:
                return braced("[", further, most, "]")
            prefix = [further]
        items = [prefix[0], *(Seq((COMMA, item)) for item in prefix[1:])]
        if further is not None:
            some = len(prefix)
            more = None if most is None else most - some
            items.append(Repeat(Seq((COMMA, further)), max(0, least - some), more))
        return Seq((literal("["), *items, literal("]")))

    def _item(self, schema: Any, where: str) -> Node:
        return self._shared_rule(f"{where} item", self._node(schema, where))

    def _object(self, schema: dict[str, Any], where: str) -> Node:
        properties = dict(schema.get("properties", {}))
        required = dict.fromkeys(schema.get("required", ()))
        additional = schema.get("additionalProperties", True)
        for name in required:
            if name not in properties:
                if additional is False:
                    raise GuideError(
                        f"requires {name[:40]!r}, which it does not allow, allowed is to name it "
                        "in properties"
                    )
                properties[name] = additional
        if not properties:
            return self._map(additional, where)
        members = [
            (self._member(name, value, f"{where}/properties/{_escaped(name)}"), name in required)
            for name, value in properties.items()
        ]
        inner: Node = Joined(tuple(members), COMMA)
        if not any(required for _, required in members):
            inner = optional(inner)
        return Seq((literal("{"), inner, literal("}")))

    def _member(self, name: str, schema: Any, where: str) -> Node:
        return Seq((json_literal(name), COLON, self._node(schema, where)))

    def _map(self, schema: Any, where: str) -> Node:
        if schema is False:
            return literal("{}")
        value = self._item(schema, f"{where}/additionalProperties")
        return braced("{", Seq((Call(STRING), COLON, value)), None, "}")


def _is_bounded(schema: dict[str, Any]) -> bool:
    return any(
        name in schema for name in ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum")
    )


def _asks(schema: dict[str, Any], name: str) -> bool:
    if name == "length":
        return bool(schema.get("minLength", 0)) or "maxLength" in schema
    return name in schema


def _escaped(name: str) -> str:
    return name.replace("~", "~0").replace("/", "~1")


def _placed(message: str, where: str) -> str:
    wrong, comma, allowed = message.partition(", allowed")
    return f"{wrong} at {where[:80]}{comma}{allowed}"
