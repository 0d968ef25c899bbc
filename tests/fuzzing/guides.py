"""Random JSON schemas as guides: what their grammars match is valid, and refusals are sentences.

A schema is made out of its number alone. A fault is printed with the smallest schema that shows it:

    .venv/bin/python -m tests.fuzzing.guides --index 17 --count 1
"""

from __future__ import annotations

import argparse
import json
import random
import re
import sys
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from random import Random
from typing import Any

import host.room_paths  # noqa: F401
from token_engine.openvino_runtime.guide_grammar.grammar import GuideError
from token_engine.openvino_runtime.guide_grammar.guides import guide_to_ebnf

from tests.support.guide_matching import Recognizer, matches, write
from tests.support.json_schema_judge import DRAFTS, is_valid, is_valid_text
from tests.support.keyword_cases import texts
from tests.support.likely_values import guess
from tests.support.random_schemas import random_schema
from tests.support.smaller_json import smallest

VALUES, WRITTEN = 8, 10  # for each schema: guessed, and written by the grammar
EAGER = 40  # characters of a written text before it ends as soon as it can


@dataclass
class Tried:
    """What became of one schema; texts that should not be matched, values that should be."""

    refusal: str = ""
    wrong: list[str] = field(default_factory=list)
    missed: list[Any] = field(default_factory=list)
    matched: int = 0  # valid values
    broken: str = ""  # a fault of another kind
    readings: int = 0


def schema_of(number: int) -> Any:
    """The schema of this number; the drafts take turns."""
    return random_schema(Random(number), list(DRAFTS)[number % len(DRAFTS)])


def try_schema(schema: Any, seed: int) -> Tried:
    """Guess values and write texts under the schema's grammar, and let the judge see them."""
    tried, chance = Tried(), Random(seed)
    try:
        grammar = Recognizer(guide_to_ebnf("json_schema", json.dumps(schema)))
    except GuideError as error:
        tried.refusal = str(error)
        tried.broken = "" if is_sentence(tried.refusal) else f"refused by {tried.refusal!r}"
        return tried
    except Exception as error:
        tried.broken = f"ends with {error!r}"
        return tried
    for value in [guess(schema, schema, chance) for _ in range(VALUES)]:
        matched = [text for text in texts(value) if matches(grammar, text)]
        if not is_valid(value, schema):
            tried.wrong += matched
        elif matched:
            tried.matched += 1
        else:
            tried.missed.append(value)
    written = [write(grammar, chance, EAGER) for _ in range(WRITTEN)]
    tried.wrong += [text for text in written if not is_valid_text(text, schema)]
    tried.readings = grammar.readings
    return tried


def is_sentence(text: str) -> bool:
    """Two clauses on one line, of a length that can be read."""
    return " must " in text and "\n" not in text and len(text) < 600


def fault_of(number: int) -> str:
    """What is wrong with the schema of this number, in one line; empty if nothing is."""
    schema = schema_of(number)
    try:
        tried = try_schema(schema, number)
    except RecursionError:  # the judge follows a reference that leads to itself
        return ""
    if not tried.wrong and not tried.broken:
        return ""
    small = smallest(schema, lambda one: _has_fault(one, number))
    shown = try_schema(small, number) if _has_fault(small, number) else tried
    what = f"matches {shown.wrong[0]}" if shown.wrong else shown.broken
    return f"{number}: {json.dumps(small)} {what}"


def _has_fault(schema: Any, seed: int) -> bool:
    try:
        tried = try_schema(schema, seed)
    except Exception:  # no schema any more, or one that the judge cannot follow
        return False
    return bool(tried.wrong or tried.broken)


def main() -> int:
    """The command line; the exit code is 1 if anything was wrong."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    anywhere = random.SystemRandom().randrange(10**9)
    parser.add_argument("--index", type=int, default=anywhere, help="number of the first schema")
    parser.add_argument("--count", type=int, default=20_000, help="how many schemas")
    options = parser.parse_args()
    started, faults = time.monotonic(), []
    numbers = range(options.index, options.index + options.count)
    for number in numbers:
        if fault := fault_of(number):
            faults.append(fault)
            print(fault, flush=True)
    for line in _table(numbers[:2000]):
        print(line)
    print(f"{len(numbers)} schemas from {options.index} on, {time.monotonic() - started:.0f} s")
    print(f"{len(faults)} faults" if faults else "nothing was wrong")
    return bool(faults)


def _table(numbers: range) -> Iterator[str]:
    """For the first schemas: the reasons for refusals, and how many valid values match."""
    reasons, matched, missed = Counter[str](), 0, 0
    for number in numbers:
        try:
            tried = try_schema(schema_of(number), number)
        except RecursionError:
            continue
        reasons[re.sub(r"'[^']*'|#\S*|\d+", "...", tried.refusal)[:90]] += 1
        matched, missed = matched + tried.matched, missed + len(tried.missed)
    served = reasons.pop("", 0)
    yield f"of {len(numbers)} schemas {served} are served; they match {matched} valid values "
    yield f"and leave out {missed}; refusals:"
    yield from (f"{count:7} {reason}" for reason, count in reasons.most_common())


if __name__ == "__main__":
    sys.exit(main())
