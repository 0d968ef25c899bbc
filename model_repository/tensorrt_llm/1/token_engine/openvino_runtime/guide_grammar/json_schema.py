"""A JSON schema (draft 2020-12's everyday part), read into a grammar.

Whatever the grammar matches is valid against the schema, but it does not match everything valid:
properties come in the schema's order, a schema that names some allows no others, and a value of
`enum` is written in one way. A keyword that is not supported is refused by name.
"""

from __future__ import annotations

from typing import Any

from token_engine.openvino_runtime.guide_grammar.alternatives import Comparison
from token_engine.openvino_runtime.guide_grammar.grammar import (
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
    single,
)
from token_engine.openvino_runtime.guide_grammar.json_keywords import (
    References,
    check_keywords,
    escaped,
    matches_type,
    types_of,
)
from token_engine.openvino_runtime.guide_grammar.json_numbers import (
    integers_between,
    numbers_between,
)
from token_engine.openvino_runtime.guide_grammar.json_values import (
    COLON,
    COMMA,
    INTEGER,
    NUMBER,
    SHARED,
    STRING,
    VALUE,
    braced,
    json_literal,
    json_rules,
    object_or_array,
    string_of_format,
    string_of_length,
    string_of_pattern,
)

MAX_ONE_OF = 100  # each is compared with each
LONGEST_PLACE = 80  # characters of a JSON pointer that a refusal repeats

BOOLEAN = Alt((literal("true"), literal("false")))
NULL = literal("null")


def read_json_schema(schema: Any) -> Grammar:
    """Read a schema that `json.loads` gave; raises `GuideError`."""
    return _Reader(schema).read()


def any_json() -> Grammar:
    """Any JSON object or array: what upstream's guide type `json` is (xgrammar's own grammar)."""
    return Grammar({**json_rules(), ROOT: object_or_array()}, SHARED)


class _Reader:
    def __init__(self, schema: Any) -> None:
        self._schema = schema
        self._references = References(schema)
        self._rules = json_rules()
        self._shared = set(SHARED)
        self._waiting: list[tuple[str, Any]] = []  # rules called and not read yet
        self._nodes: dict[int, Node] = {}  # what was read, by the schema's id
        self._one_ofs: list[tuple[list[Any], str]] = []

    def read(self) -> Grammar:
        self._rules[ROOT] = self._node(self._schema, "#")
        while self._waiting:
            rule, schema = self._waiting.pop()
            if rule not in self._rules:
                self._rules[rule] = self._node(schema, rule[:LONGEST_PLACE])
        comparison = Comparison()  # now that all of them are known to have a right form
        for schemas, where in self._one_ofs:
            self._check_apart(comparison, schemas, where)
        return Grammar(self._rules, frozenset(self._shared))

    def _node(self, schema: Any, where: str) -> Node:
        """What a schema matches; `where` begins its JSON pointer."""
        if schema is True or schema == {}:
            return Call(VALUE)
        if id(schema) in self._nodes:
            return self._nodes[id(schema)]
        if not isinstance(schema, dict):
            raise GuideError(
                f"has {str(schema)[:40]} at {where}; it must be a schema object or true"
            )
        keywords = check_keywords(schema, where)
        try:
            node = self._nodes[id(schema)] = self._of_keywords(schema, keywords, where)
        except GuideError as error:
            message = str(error)
            raise GuideError(message if " at #" in message else _placed(message, where)) from None
        return node

    def _of_keywords(self, schema: dict[str, Any], keywords: set[str], where: str) -> Node:
        if "$ref" in keywords:
            return self._reference(schema["$ref"])
        if "allOf" in keywords:
            return self._node(schema["allOf"][0], _under(where, "allOf/0"))
        if keywords & {"anyOf", "oneOf"}:
            return self._alternatives(schema, "anyOf" if "anyOf" in keywords else "oneOf", where)
        types = types_of(schema)
        if keywords & {"const", "enum"}:
            values = schema["enum"] if "enum" in keywords else [schema["const"]]
            chosen = [value for value in values if not types or matches_type(value, types)]
            return Alt(tuple(json_literal(value) for value in chosen))
        if not types:
            return Call(VALUE)
        return Alt(tuple(self._of_type(name, schema, where) for name in types))

    def _of_type(self, name: str, schema: dict[str, Any], where: str) -> Node:
        if name == "string":
            return self._string(schema)
        if name == "integer":
            return integers_between(schema) if _is_bounded(schema) else Call(INTEGER)
        if name == "number":
            return numbers_between(schema) if _is_bounded(schema) else Call(NUMBER)
        if name == "array":
            return self._array(schema, where)
        if name == "object":
            return self._object(schema, where)
        return BOOLEAN if name == "boolean" else NULL

    def _reference(self, pointer: Any) -> Node:
        rule, schema = self._references.find(pointer)
        self._waiting.append((rule, schema))
        return Call(rule)

    def _alternatives(self, schema: dict[str, Any], keyword: str, where: str) -> Node:
        schemas = schema[keyword]
        if keyword == "oneOf":
            if len(schemas) > MAX_ONE_OF:
                raise GuideError(
                    f"has {len(schemas)} schemas in oneOf; it must have at most {MAX_ONE_OF}"
                )
            self._one_ofs.append((schemas, where))
        return Alt(
            tuple(self._node(s, _under(where, f"{keyword}/{n}")) for n, s in enumerate(schemas))
        )

    def _check_apart(self, comparison: Comparison, schemas: list[Any], where: str) -> None:
        both = comparison.overlap([self._references.end(schema) for schema in schemas])
        if both:
            raise GuideError(
                f"has a oneOf at {where} of which {both[0]} and {both[1]} may both match; "
                "they must differ in type or in a required constant"
            )

    def _string(self, schema: dict[str, Any]) -> Node:
        asked = [name for name in ("pattern", "format", "length") if _asks(schema, name)]
        if len(asked) > 1:
            raise GuideError(f"has {' and '.join(asked)} for one string; there must be one of them")
        if not asked:
            return Call(STRING)
        least, most = schema.get("minLength", 0), schema.get("maxLength")
        given = f"{least} to {most}" if asked == ["length"] else schema[asked[0]]
        name = f"# {asked[0]} {given} string"
        if name in self._rules:
            return Call(name)
        if asked == ["pattern"]:
            node = string_of_pattern(given)
        elif asked == ["format"]:
            node = string_of_format(given)
        else:
            node = string_of_length(least, most)
        return self._shared_rule(name, node)

    def _shared_rule(self, name: str, node: Node) -> Node:
        """Make it a rule, so that what is used or repeated often is not copied."""
        if isinstance(node, Call):
            return node
        self._rules[name] = node
        self._shared.add(name)
        return Call(name)

    def _array(self, schema: dict[str, Any], where: str) -> Node:
        least, most = schema.get("minItems", 0), schema.get("maxItems")
        prefix = [
            self._item(item, _under(where, f"prefixItems/{number}"))
            for number, item in enumerate(schema.get("prefixItems", ()))
        ][:most]
        further = None
        if schema.get("items", True) is not False and (most is None or most > len(prefix)):
            further = self._item(schema.get("items", True), _under(where, "items"))
        if least > (len(prefix) if further is None else least if most is None else most):
            raise GuideError(
                f"has minItems {str(least)[:40]} above what else it says; it must be less"
            )
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
        return Seq((single("["), *items, single("]")))

    def _item(self, schema: Any, where: str) -> Node:
        node = self._node(schema, where)
        return self._shared_rule(f"item {len(self._rules)} at {where}", node)

    def _object(self, schema: dict[str, Any], where: str) -> Node:
        properties = schema.get("properties", {})
        required = dict.fromkeys(schema.get("required", ()))
        additional = schema.get("additionalProperties", True)
        unnamed = [name for name in required if name not in properties]
        if unnamed and additional is False:
            raise GuideError(
                f"requires {unnamed[0][:40]!r}, which it does not allow; properties must name it"
            )
        if not properties and not unnamed:
            return self._map(additional, where)
        nodes = {
            name: self._node(value, _under(where, f"properties/{escaped(name)}"))
            for name, value in properties.items()
        }
        if unnamed:
            read = self._node if len(unnamed) == 1 else self._item
            nodes |= dict.fromkeys(unnamed, read(additional, _under(where, "additionalProperties")))
        members = [
            (Seq((json_literal(name), COLON, node)), name in required)
            for name, node in nodes.items()
        ]
        inner: Node = Joined(tuple(members), COMMA)
        if not any(required for _, required in members):
            inner = optional(inner)
        return Seq((single("{"), inner, single("}")))

    def _map(self, schema: Any, where: str) -> Node:
        if schema is False:
            return literal("{}")
        value = self._item(schema, _under(where, "additionalProperties"))
        return braced("{", Seq((Call(STRING), COLON, value)), None, "}")


def _is_bounded(schema: dict[str, Any]) -> bool:
    return any(
        name in schema for name in ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum")
    )


def _asks(schema: dict[str, Any], name: str) -> bool:
    if name == "length":
        return bool(schema.get("minLength", 0)) or "maxLength" in schema
    return name in schema


def _under(where: str, part: str) -> str:
    return f"{where}/{part}"[:LONGEST_PLACE]


def _placed(message: str, where: str) -> str:
    wrong, _, must = message.rpartition("; ")
    return f"{wrong} at {where}; {must}"
