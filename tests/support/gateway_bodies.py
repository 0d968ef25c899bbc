"""Bodies of the gateway's requests, broken at random: bytes, keys, types at any depth."""

from __future__ import annotations

import copy
import json
import random
from typing import Any

SCHEMA = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}
TOOL = {"type": "function", "function": {"name": "f", "parameters": SCHEMA}}
RIGHT: list[tuple[str, dict[str, Any]]] = [
    (
        "/v1/chat/completions",
        {
            "messages": [
                {"role": "system", "content": "Be short."},
                {"role": "user", "content": [{"type": "text", "text": "Hello"}]},
            ],
            "temperature": 0.5,
            "top_p": 0.9,
            "n": 2,
            "stop": ["x"],
            "stream": True,
            "stream_options": {"include_usage": True},
            "response_format": {"type": "text"},
            "tools": [TOOL],
            "tool_choice": "auto",
            "logit_bias": {},
            "metadata": {"a": "b"},
        },
    ),
    ("/v1/chat/completions", {"messages": [{"role": "user", "content": "Hi"}], "seed": 3}),
    ("/v1/completions", {"prompt": ["a b", "c"], "echo": True, "n": 2, "stop": "z"}),
    ("/v1/completions", {"prompt": "a b", "stream": True, "top_k": 3, "min_p": 0.1}),
    (
        "/v1/responses",
        {
            "input": [
                {"role": "user", "content": [{"type": "input_text", "text": "Hello"}]},
                {"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}"},
                {"type": "function_call_output", "call_id": "c", "output": "1"},
            ],
            "instructions": "Be short.",
            "text": {"format": {"type": "text"}},
            "tools": [{"type": "function", "name": "f", "parameters": SCHEMA}],
        },
    ),
    ("/tokenize", {"prompt": "a b"}),
    ("/tokenize", {"messages": [{"role": "user", "content": "Hi"}], "return_token_strs": True}),
    ("/detokenize", {"tokens": [1, 2, 3]}),
]
VALUES: list[Any] = [
    None, True, False, 0, 1, -1, 2**31, 2**64, -(2**70), 0.5, 1e308, -1e-300, "", "x", "\x00",
    "\ud83d\ude00" * 3, "<|eot_id|>", "a" * 5000, [], {}, [[]], [None], {"": ""}, {"type": "x"},
    [{"type": "function"}], {"$ref": "#"}, "ensemble", [1, "a", None], {"a": {"b": {"c": [1]}}},
]  # fmt: skip


def broken_body(rng: random.Random) -> tuple[str, bytes]:
    """A path and a body for it; now and then a right one."""
    path, right = rng.choice(RIGHT)
    limit = "max_output_tokens" if "responses" in path else "max_tokens"
    limits = {limit: 2} if path.startswith("/v1/") else {}
    body: Any = json.loads(json.dumps({"model": "ensemble", **right, **limits}))
    for _ in range(rng.randint(0, 3)):
        body = _changed(rng, body)
    data = json.dumps(body, ensure_ascii=rng.random() < 0.5).encode(errors="surrogatepass")
    return path, _cut(rng, data) if rng.random() < 0.15 else data


def _changed(rng: random.Random, value: Any) -> Any:
    """One change somewhere inside."""
    inner = isinstance(value, (dict, list)) and value and rng.random() < 0.85
    if not inner:
        return copy.deepcopy(rng.choice(VALUES))
    if isinstance(value, list):
        index = rng.randrange(len(value))
        value[index] = _changed(rng, value[index])
        return value * rng.choice((1, 1, 1, 20))
    key = rng.choice(list(value))
    kind = rng.random()
    if kind < 0.15:
        del value[key]
    elif kind < 0.3:
        value[rng.choice(("nope", "", "stop", "n", "type", "\u2028", key + "_"))] = rng.choice(
            VALUES
        )
    else:
        value[key] = _changed(rng, value[key])
    return value


def _cut(rng: random.Random, data: bytes) -> bytes:
    """Broken bytes."""
    at = rng.randrange(len(data))
    kind = rng.randrange(4)
    if kind == 0:
        return data[:at]
    if kind == 1:
        return data[:at] + bytes([rng.randrange(256)]) + data[at + 1 :]
    if kind == 2:
        return data[:at] + data[: rng.randrange(20)] + data[at:]
    return b"[" * rng.randrange(1, 3000) + data
