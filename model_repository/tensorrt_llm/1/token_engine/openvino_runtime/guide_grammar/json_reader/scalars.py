"""The language of a case of numbers or strings."""

from __future__ import annotations

from fractions import Fraction

from token_engine.openvino_runtime.guide_grammar.json_reader.cases import Case
from token_engine.openvino_runtime.guide_grammar.json_reader.languages import (
    ANYTHING,
    Language,
    both,
    of_texts,
    without,
)
from token_engine.openvino_runtime.guide_grammar.json_reader.numbers import Bound, Multiple, numbers
from token_engine.openvino_runtime.guide_grammar.json_reader.strings import (
    matching,
    of_format,
    with_length,
)
from token_engine.openvino_runtime.guide_grammar.json_reader.values import json_text

NOT_EQUAL = frozenset((-1, 1))


def number_language(case: Case) -> Language:
    """The numbers of a case, as JSON writes them."""
    conditions = list(case.conditions)
    conditions += [Bound(Fraction(str(value)), NOT_EQUAL) for value in case.excluded]
    if case.values is None:
        if case.is_integer is False:  # nor one with zeros behind the point
            conditions.append(Multiple(Fraction(1), wanted=False))
        return numbers(conditions, case.is_integer is True)
    chosen = []
    for value in case.values:
        number = Fraction(str(value))
        is_right = case.is_integer is None or case.is_integer is (number.denominator == 1)
        if is_right and all(condition.holds(number) for condition in conditions):
            chosen.append(json_text(value))
    return of_texts(chosen)


def string_language(case: Case, longest: int) -> Language:
    """The strings of a case; of those that may be longer, only up to `longest` characters."""
    languages = [
        (matching(name) if kind == "pattern" else of_format(name), sign)
        for kind, name, sign in case.texts
    ]
    if case.values is not None:
        return of_texts(
            text
            for text in case.values
            if case.least <= len(text)
            and (case.most is None or len(text) <= case.most)
            and text not in case.excluded
            and all((text in language) is sign for language, sign in languages)
        )
    found = ANYTHING
    for language, sign in languages:
        found = both(found, language) if sign else without(found, language)
    found = with_length(found, case.least, case.most, longest)
    return without(found, of_texts(case.excluded)) if case.excluded else found
