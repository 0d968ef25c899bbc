"""What the answers of several endpoints share: usage, log probabilities, finish reasons."""

from __future__ import annotations

import json
from json.encoder import encode_basestring
from typing import Any

from llama_fp4.gateway.generation import Usage

# What the server may say besides OpenAI's own words: an answer that its time limit has cut.
FINISH = {"timeout": "length"}


def as_json(value: Any) -> bytes:
    """Compact JSON in UTF-8."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()


def quoted(text: str) -> bytes:
    """A text as JSON in UTF-8; C code, the one piece of JSON that each chunk needs."""
    return encode_basestring(text).encode()


def finish_reason(word: str, made_calls: bool = False) -> str:
    """OpenAI's word for how an answer ended."""
    return "tool_calls" if made_calls and word == "stop" else FINISH.get(word, word)


def usage_json(usage: Usage) -> dict[str, int]:
    """`usage` of chats and completions."""
    return {
        "prompt_tokens": usage.prompt,
        "completion_tokens": usage.completion,
        "total_tokens": usage.prompt + usage.completion,
    }


def token_logprobs(text: str) -> list[dict[str, Any]]:
    """The ensemble's `top_logprobs`, an object for each token, in a chat's form."""
    found = json.loads(text) if text else []
    return [
        {**_token(item), "top_logprobs": [_token(top) for top in item["top_logprobs"]]}
        for item in found
    ]


def _token(item: dict[str, Any]) -> dict[str, Any]:
    return {"token": item["token"], "logprob": item["logprob"], "bytes": item["bytes"]}
