"""Triton's request parameters: whatever a request says beside its tensors.

HTTP's `generate` makes a parameter of every JSON key that is no input, so a mis-spelled one would
be swallowed.
"""

from __future__ import annotations

import json

# Names under which `stop` finds the request, beside its id. HTTP's `generate` has no other place
# for an id in Triton 2.51.
NAMES = ("id", "cancel_id")


class UnknownParameter(ValueError):
    """A parameter that means nothing here; the message names it and what is allowed."""


def read_names(parameters: str) -> set[str]:
    """The names that the parameters give to the request; raises `UnknownParameter`."""
    given = json.loads(parameters) if parameters else {}
    for name, value in given.items():
        if name not in NAMES:
            raise UnknownParameter(
                f"{name[:60]!r} is neither an input nor a request parameter, "
                f"allowed are the inputs that config.pbtxt lists, and {', '.join(NAMES)}"
            )
        if not isinstance(value, str):
            raise UnknownParameter(f"{name} is {value!r:.60}, allowed is a string")
    return set(given.values())
