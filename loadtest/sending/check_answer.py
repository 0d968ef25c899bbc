"""Whether an answer is right, under any load: its flags, its lengths, its text.

A greedy answer must equal the one that the same prompt got from the unloaded server.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

REPLACEMENT = "\N{REPLACEMENT CHARACTER}"
CUT = "the text holds U+FFFD: half a character, or the model's own, which --no-text-check allows"
FINISH_REASONS = ("stop", "length")


@dataclass(slots=True)
class Answer:
    """What came for one request."""

    text: str = ""
    finals: int = 0  # responses with the final flag
    after_final: int = 0  # responses that came after it
    finish_reason: str = ""
    num_output_tokens: int = 0
    num_input_tokens: int = 0


def digest(text: str) -> str:
    """A text's name, short enough to send to every worker."""
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:32]


def is_greedy(options: Mapping[str, Any]) -> bool:
    """Whether the same prompt must bring the same text: upstream's rule for these options."""
    if options.get("temperature") == 0 or options.get("top_k") == 1:
        return True
    return not any(options.get(name) for name in ("temperature", "top_k", "top_p", "min_p"))


def wrong(
    answer: Answer, max_tokens: int, options: Mapping[str, Any], reference: str | None
) -> str:
    """What is wrong with a completed answer, one sentence; "" if nothing is.

    `reference` is the `digest` of its unloaded text, "" where there is none; with None nothing is
    said of the text.
    """
    if answer.finals != 1 or answer.after_final:
        return f"{answer.finals} final flags, {answer.after_final} responses after one; expected 1"
    if answer.finish_reason not in FINISH_REASONS:
        return f"finish_reason is {answer.finish_reason!r}, must be stop or length"
    if answer.num_output_tokens > max_tokens:
        return f"{answer.num_output_tokens} output tokens, asked for were {max_tokens} at most"
    if options.get("ignore_eos") and answer.num_output_tokens != max_tokens:
        return f"{answer.num_output_tokens} output tokens, asked for were exactly {max_tokens}"
    if reference is None:
        return ""
    if not reference:
        # A model may write U+FFFD, as only the unloaded text knows.
        return CUT if REPLACEMENT in answer.text else ""
    if digest(answer.text) != reference:
        return f"the text is not the unloaded one: {answer.text[:60]!r}"
    return ""
