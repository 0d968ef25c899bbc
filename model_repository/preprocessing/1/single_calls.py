"""Messages with several calls -> messages with one call each, for templates that take no more.

Llama 3.1's template refuses a message with two calls, though the model makes them and clients send
them back. Each call then gets a message of its own, and its result follows it at once, as if the
model had called one function after the other.
"""

from __future__ import annotations

from collections.abc import Sequence

from chat_messages import TOOL_ROLES, Message


def with_single_calls(messages: Sequence[Message]) -> list[Message]:
    """The same calls and results; the words beside the calls stay with the first one."""
    single: list[Message] = []
    index = 0
    while index < len(messages):
        message = messages[index]
        index += 1
        if len(message.get("tool_calls", ())) < 2:
            single.append(message)
            continue
        end = index
        while end < len(messages) and messages[end]["role"] in TOOL_ROLES:
            end += 1
        single += _split(message, list(messages[index:end]))
        index = end
    return single


def _split(message: Message, results: list[Message]) -> list[Message]:
    calls = message["tool_calls"]
    if any("tool_call_id" in result for result in results):
        keys = [call.get("id", "") for call in calls]
        answered = {result.get("tool_call_id"): result for result in reversed(results)}
    else:  # by their order, where each call has a result
        keys = [str(position) for position in range(len(calls))]
        in_order = results if len(results) == len(calls) else []
        answered = dict(zip(keys, in_order, strict=False))
    split: list[Message] = []
    for position, (key, call) in enumerate(zip(keys, calls, strict=True)):
        words = message if position == 0 else {"role": message["role"]}
        split.append({**words, "tool_calls": [call]})
        if key in answered:
            split.append(answered.pop(key))
    placed = set(map(id, split))
    return split + [result for result in results if id(result) not in placed]
