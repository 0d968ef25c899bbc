"""A user's words in disguise, while a chat template mixes them with its own.

A chat template writes control tokens such as <|eot_id|> between the messages, and a message's
words may spell the same. What tells them apart afterwards is the character that every control
token begins with: in the words of a user it is replaced by a stand-in that no text can hold, one
character for one, so that the template trims, quotes and joins them as it would have done. A
control token found in the result begins with a character of the template's own.
"""

from __future__ import annotations

from typing import Any, NewType

HIDDEN = "<"
# A lone surrogate: not Unicode text, so no user can send it and no tokenizer will take it.
STAND_IN = "\udc3c"

# A prompt with the user's words in disguise. Only `PromptEncoder.encode_rendered` reads it.
RenderedPrompt = NewType("RenderedPrompt", str)


def hide(value: Any) -> Any:
    """A copy of a JSON value with every string in it disguised, keys too."""
    if isinstance(value, str):
        return value.replace(HIDDEN, STAND_IN)
    if isinstance(value, list):
        return [hide(item) for item in value]
    if isinstance(value, dict):
        return {hide(key): hide(item) for key, item in value.items()}
    return value


def reveal(text: str) -> str:
    """The text as it would be without the disguise."""
    return text.replace(STAND_IN, HIDDEN)
