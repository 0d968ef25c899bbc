"""What a keyword means: a schema, values that are valid under it, and values that are not."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

import pytest
from token_engine.openvino_runtime.guide_grammar.grammar import GuideError

from tests.support.guide_matching import compiled, matches
from tests.support.json_schema_judge import DRAFTS, is_valid

# Not each draft each time, where several say the same.
ALL = ("4", "7", "2020-12")
FROM_6, FROM_7, FROM_2019 = ("6", "2019-09", "2020-12"), ("7", "2020-12"), ("2019-09", "2020-12")
UP_TO_7, UP_TO_2019, ONLY_2020 = ("4", "6", "7"), ("4", "7", "2019-09"), ("2020-12",)


@dataclass(frozen=True)
class Case:
    """`missed` are valid, but the grammar leaves them out; the runtime's table says so.

    `refused` is what the sentence names where a schema is not served at all.
    """

    schema: Any
    valid: list[Any] = field(default_factory=list)
    invalid: list[Any] = field(default_factory=list)
    missed: list[Any] = field(default_factory=list)
    refused: str = ""
    drafts: tuple[str, ...] = ALL

    def of_draft(self, draft: str) -> Any:
        """The schema with its draft's `$schema`."""
        named = isinstance(self.schema, bool) or "$schema" in self.schema
        return self.schema if named else {"$schema": DRAFTS[draft], **self.schema}


def of_each(cases: list[Case]) -> pytest.MarkDecorator:
    """Parametrizes a test by the cases."""
    return pytest.mark.parametrize("case", cases, ids=lambda case: json.dumps(case.schema)[:70])


def check(case: Case) -> None:
    """The judge says what the case says, and the grammar matches what is valid and not missed."""
    faults = []
    for draft in case.drafts:
        schema = case.of_draft(draft)
        if case.refused:
            with pytest.raises(GuideError, match=case.refused):
                compiled("json_schema", json.dumps(schema))
            continue
        grammar = compiled("json_schema", json.dumps(schema))
        for values, valid, matched in (
            (case.valid, True, True),
            (case.missed, True, False),
            (case.invalid, False, False),
        ):
            for value in values:
                if is_valid(value, schema) != valid:
                    faults.append(f"{draft}: {value!r} is {'not ' * valid}valid, says the judge")
                faults += [
                    f"{draft}: {text} is valid={valid} and must be matched={matched}"
                    for text in texts(value)
                    if matches(grammar, text) != matched
                ]
    assert not faults


def texts(value: Any) -> list[str]:
    """As programs write it: with spaces behind commas and colons, and without."""
    separators = ((", ", ": "), (",", ":"))
    return [json.dumps(value, ensure_ascii=False, separators=pair) for pair in separators]
