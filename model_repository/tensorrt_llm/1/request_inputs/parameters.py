"""Triton's request parameters: what a request carries besides its tensors.

HTTP's `generate` makes a parameter of every JSON key that is no input, so a mis-spelled one would
be swallowed.
"""

from __future__ import annotations

import json
from dataclasses import dataclass

# More ids by which `stop` finds the request: the client's (HTTP's `generate` has no other place for
# one in Triton 2.51), and the unary model's own.
IDS = ("id", "cancel_id")
# What upstream's clients and benchmarks send, and upstream's models never read.
WITHOUT_EFFECT = ("Streaming", "accumulate_tokens")
# Whether an error's message begins with "[CODE] ". The unary model sets it: from one model to
# another, and in a gRPC stream, Triton passes on the message of an error and not its code.
NAMED_ERRORS = "named_errors"
# The unary model's: one response for all sequences, and only when all of them are finished.
ONE_RESPONSE = "one_response"
# Room 3's: the key of the request that `stop` means, as it came with the request's responses.
KEY = "stream_key"


class UnknownParameter(ValueError):
    """A parameter that means nothing here; the message names it and what may be sent."""


@dataclass(frozen=True)
class Parameters:
    """The parameters, read."""

    ids: frozenset[str] = frozenset()
    one_response: bool = False
    key: int | None = None


def wants_named_errors(parameters: str) -> bool:
    """Read before all else, so that every refusal can follow it."""
    return bool(parameters) and json.loads(parameters).get(NAMED_ERRORS) is True


def read_parameters(parameters: str) -> Parameters:
    """Raises `UnknownParameter`."""
    given = json.loads(parameters) if parameters else {}
    for name in WITHOUT_EFFECT:
        given.pop(name, None)
    _flag(given, NAMED_ERRORS)
    one_response = _flag(given, ONE_RESPONSE)
    key = given.pop(KEY, None)
    if not isinstance(key, int | None):
        raise UnknownParameter(f"{KEY} is {key!r:.60} and must be an integer")
    for name, value in given.items():
        if name not in IDS:
            raise UnknownParameter(
                f"{name[:60]!r} must be an input that config.pbtxt lists, or the "
                f"request parameter {IDS[0]} or {NAMED_ERRORS}"
            )
        if not isinstance(value, str):
            raise UnknownParameter(f"{name} is {value!r:.60} and must be a string")
    return Parameters(frozenset(given.values()), one_response, key)


def _flag(given: dict[str, object], name: str) -> bool:
    value = given.pop(name, False)
    if not isinstance(value, bool):
        raise UnknownParameter(f"{name} is {value!r:.60} and must be true or false")
    return value
