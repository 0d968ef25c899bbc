"""Whether a JSON text is valid: the package jsonschema says it, and no reader of ours.

Three things are put right before it judges: patterns are JavaScript's (`ecma_patterns.py`), a
decimal fraction is a multiple of another as both are written, and formats count in each draft.
"""

from __future__ import annotations

import json
from fractions import Fraction
from functools import lru_cache
from typing import Any

from jsonschema import Draft202012Validator, ValidationError
from jsonschema.validators import extend, validator_for
from jsonschema_specifications import REGISTRY

from tests.support.ecma_patterns import with_python_patterns

DRAFTS = {
    "4": "http://json-schema.org/draft-04/schema#",
    "6": "http://json-schema.org/draft-06/schema#",
    "7": "http://json-schema.org/draft-07/schema#",
    "2019-09": "https://json-schema.org/draft/2019-09/schema",
    "2020-12": "https://json-schema.org/draft/2020-12/schema",
}


def _multiple_of(validator: Any, divisor: Any, value: Any, _schema: Any) -> Any:
    if validator.is_type(value, "number") and Fraction(str(value)) % Fraction(str(divisor)):
        yield ValidationError(f"{value} is not a multiple of {divisor}")


@lru_cache(maxsize=256)
def _validator(schema: str) -> Any:
    """The validator of the draft that `$schema` names, 2020-12 without one; checks the schema."""
    document = with_python_patterns(json.loads(schema))
    draft = validator_for(document, default=Draft202012Validator)
    draft.check_schema(document)
    judge = extend(draft, {"multipleOf": _multiple_of})
    return judge(document, registry=REGISTRY, format_checker=Draft202012Validator.FORMAT_CHECKER)


def is_valid(value: Any, schema: Any) -> bool:
    """Whether the value is valid; raises `jsonschema.SchemaError` for a schema that is none."""
    return bool(_validator(json.dumps(schema)).is_valid(value))


def is_valid_text(text: str, schema: Any) -> bool:
    """Whether the text is JSON and valid, whichever of two members of one name a reader takes."""
    try:
        last = json.loads(text, parse_float=_Written, parse_constant=_refuse)
        first = json.loads(text, parse_float=_Written, object_pairs_hook=_first_of_a_name)
    except ValueError:
        return False
    return is_valid(last, schema) and is_valid(first, schema)


class _Written(float):
    """A number of exactly the digits that are written."""

    _text: str
    _number: Fraction

    def __new__(cls, text: str) -> _Written:
        number = super().__new__(cls, text)
        number._text, number._number = text, Fraction(text)
        return number

    def __str__(self) -> str:
        return self._text

    def __hash__(self) -> int:
        return hash(self._number)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, int | float) and self._number == _number_of(other)

    def __lt__(self, other: object) -> bool:
        return self._number < _number_of(other)

    def __le__(self, other: object) -> bool:
        return self._number <= _number_of(other)

    def __gt__(self, other: object) -> bool:
        return self._number > _number_of(other)

    def __ge__(self, other: object) -> bool:
        return self._number >= _number_of(other)

    def is_integer(self) -> bool:
        return self._number.denominator == 1


def _number_of(value: object) -> Fraction:
    """Exactly; jsonschema compares numbers with other values too, and waits for this error."""
    if not isinstance(value, int | float):
        raise TypeError(f"{value!r} is no number")
    return Fraction(str(value))


def _first_of_a_name(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    return dict(reversed(pairs))


def _refuse(name: str) -> Any:
    raise ValueError(f"{name} is no JSON")
