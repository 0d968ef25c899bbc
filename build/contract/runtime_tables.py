"""The table in a runtime's docstring: what becomes of each part of a request.

A row is `    NAME     WORDS`. Words that begin with `refused` or `no effect` say that of each value
but the default; any others, how it is honoured. The columns of the contract's table are made of
these, and must agree with the runtime's line in the registry.
"""

from __future__ import annotations

import ast
import re
from dataclasses import fields
from pathlib import Path

import host.room_paths  # noqa: F401
from engines.engine_json import RUNTIMES
from host.console import BuildError
from token_engine import interface

FOLDER = Path(interface.__file__).parent
ROW = re.compile(r"^ {4}([a-z_]+) {2,}(\S.*)$", re.MULTILINE)
NOT_IN_TABLES = {"key", "prompt_ids", "sampling"}
OUTCOMES = ("refused", "no effect")
FEATURE_ROWS = {"embedding_bias": "token_bias", "guided_decoding": "guide"}  # others: their name
SAMPLING_ROWS = ("temperature", "top_k", "top_p", "seed")


def row_names() -> set[str]:
    """What every table has a row for."""
    types = (interface.GenerationRequest, interface.SamplingParams)
    return {one.name for kind in types for one in fields(kind)} - NOT_IN_TABLES


def table_path(runtime: str) -> Path:
    """The module whose docstring has the table."""
    path = FOLDER / f"{runtime}_runtime" / "sampling.py"
    return path if path.exists() else FOLDER / f"{runtime}.py"


def read_table(runtime: str) -> dict[str, str]:
    """ "yes", "no effect" or "refused" by the name of a row; raises `BuildError`."""
    path = table_path(runtime)
    text = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")), clean=False) or ""
    rows = dict(ROW.findall(text))
    rows.pop("here", None)
    missing, left = row_names() - rows.keys(), rows.keys() - row_names()
    if missing or left:
        raise BuildError(
            f"the docstring's table in {path.relative_to(FOLDER)} lacks {sorted(missing)} and has "
            f"{sorted(left)} too many; mend it there"
        )
    return {
        name: next((one for one in OUTCOMES if words.startswith(one)), "yes")
        for name, words in rows.items()
    }


def outcome(runtime: str, feature: str) -> str:
    """Of a feature, or of "sampling"; raises `BuildError` where the registry says otherwise."""
    table, line = read_table(runtime), RUNTIMES[runtime]
    names = SAMPLING_ROWS if feature == "sampling" else (FEATURE_ROWS.get(feature, feature),)
    registered = "yes" if line.samples else "no effect"
    if feature != "sampling" and feature not in line.features:
        registered = "refused"
    for name in names:
        if table[name] != registered:
            raise BuildError(
                f"the docstring's table in {table_path(runtime).relative_to(FOLDER)} says "
                f"{table[name]!r} of {name}, registry.py {registered!r}; mend the one that is wrong"
            )
    return registered
