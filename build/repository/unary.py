"""The unary kind of a model repository: one response per request, upstream's own default.

An ensemble is decoupled if one of its steps is, and of ours only `tensorrt_llm` is. So two lines of
its config.pbtxt make the difference: the transaction policy and upstream's default echo.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Literal

from host.console import BuildError

Kind = Literal["streaming", "unary"]
CONFIG = Path("tensorrt_llm", "config.pbtxt")
POLICY = "model_transaction_policy { decoupled: %s }"
ECHO = 'parameters { key: "exclude_input_in_output" value { string_value: "%s" } }'
DECOUPLED = re.compile(r"model_transaction_policy\s*\{\s*decoupled\s*:\s*(true|false)\s*\}")


def make_unary(repository: Path) -> None:
    """Change `repository`, a copy of the committed one, in place. Raises `BuildError`."""
    path = repository / CONFIG
    text = path.read_text(encoding="utf-8")
    for line in (POLICY, ECHO):
        if text.count(line % "true") != 1:
            raise BuildError(
                f"{path} must have the line {line % 'true'!r} once to be made unary; restore it"
            )
        text = text.replace(line % "true", line % "false")
    path.write_text(text, encoding="utf-8")


def kind_of(repository: Path) -> Kind:
    """The kind of `repository`; "streaming" if its configuration cannot be read."""
    try:
        found = DECOUPLED.search((repository / CONFIG).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError):
        found = None
    return "unary" if found and found[1] == "false" else "streaming"
