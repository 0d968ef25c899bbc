"""A JSON schema's patterns, which are JavaScript's, as Python's `re` reads them."""

from __future__ import annotations

import re
from typing import Any

SPACES = r"\t-\r \u00a0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000\ufeff"
CLASSES = {
    "d": "0-9",
    "w": "A-Za-z0-9_",
    "s": SPACES,
    "D": r"\x00-/:-\U0010ffff",
    "W": r"\x00-/:-@\[-\^`{-\U0010ffff",
    "S": r"\x00-\x08\x0e-\x1f!-\x9f\xa1-\u167f\u1681-\u1fff\u200b-\u2027\u202a-\u202e"
    r"\u2030-\u205e\u2060-\u2fff\u3001-\ufefe\uff00-\U0010ffff",
}
TOKEN = re.compile(
    r"\\u\{(?P<point>[0-9A-Fa-f]+)\}|\\(?P<class>[dwsDWS])|\\c(?P<control>[A-Za-z])"
    r"|\\k<(?P<back>\w+)>|\\(?P<kept>u[0-9A-Fa-f]{4}|x[0-9A-Fa-f]{2}|[bBnrtvf1-9]|[^A-Za-z0-9])"
    r"|\\(?P<letter>.)|\(\?<(?P<group>[A-Za-z]\w*)>|(?P<empty>\[\^?\])|(?P<plain>.)",
    re.S,
)
# In a schema: what holds no schema, and what holds schemas by name.
VALUES = frozenset(("enum", "const", "default", "examples", "example", "required"))
NAMED = frozenset(("properties", "$defs", "definitions", "dependencies", "dependentSchemas"))


def to_python(pattern: str) -> str:
    """A pattern of `re` that finds the same."""
    parts: list[str] = []
    in_class = False
    for match in TOKEN.finditer(pattern):
        if match["plain"]:
            begins = bool(parts) and (parts[-1] in ("[", "-") or parts[-2:] == ["[", "^"])
            parts.append(_plain(match["plain"], in_class, begins))
            in_class = match["plain"] != "]" if in_class else match["plain"] == "["
        elif match["empty"] and not in_class:
            parts.append("(?!)" if match["empty"] == "[]" else r"[\s\S]")
        elif match["empty"]:  # "[" is a plain character there, and the class may end
            parts.append("\\[" + match["empty"][1:])
            in_class = False
        else:
            parts.append(_escape(match, in_class))
    return "".join(parts) or "(?:)"  # jsonschema takes an empty pattern for none


def _plain(character: str, in_class: bool, begins: bool) -> str:
    if in_class:
        is_meant = character in "[&|~" or (character == "-" and begins)
        return "\\" + character if is_meant else character
    return {"$": r"\Z", ".": r"[^\n\r\u2028\u2029]"}.get(character, character)


def _escape(match: re.Match[str], in_class: bool) -> str:
    if match["point"] or match["control"]:
        point = int(match["point"], 16) if match["point"] else ord(match["control"]) % 32
        return re.escape(chr(point))
    if match["class"]:
        return CLASSES[match["class"]] if in_class else f"[{CLASSES[match['class']]}]"
    if match["back"]:
        return f"(?P={match['back']})"
    if match["group"]:
        return f"(?P<{match['group']}>"
    return match[0] if match["kept"] else {"0": r"\x00"}.get(match["letter"], match["letter"])


def with_python_patterns(schema: Any) -> Any:
    """The schema with all its patterns in Python's form."""
    if isinstance(schema, list):
        return [with_python_patterns(one) for one in schema]
    if not isinstance(schema, dict):
        return schema
    return {name: _converted(name, value) for name, value in schema.items()}


def _converted(name: str, value: Any) -> Any:
    if name in VALUES:
        return value
    if name == "pattern" and isinstance(value, str):
        return to_python(value)
    if name in NAMED and isinstance(value, dict):
        return {key: with_python_patterns(one) for key, one in value.items()}
    if name == "patternProperties" and isinstance(value, dict):
        return {to_python(key): with_python_patterns(one) for key, one in value.items()}
    return with_python_patterns(value)
