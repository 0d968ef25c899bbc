"""Odd values for every kind of input: numbers, texts, chats, tools, guides."""

from __future__ import annotations

import json
import math
import random
from typing import Any

from tests.fuzzing.drafts import INPUTS, Draft, Tensor

CHAT = b'[{"role": "user", "content": "Hi"}]'
TOOL = b'[{"type": "function", "function": {"name": "f", "description": "d", "parameters": {}}}]'
# Right values by name in lower case. CALLED has the rooms' names for the same inputs.
RIGHT: dict[str, list[Any]] = {
    "exclude_input_in_output": [True, False], "stop_words": [b"zzz", b""],
    "include_stop_str_in_output": [True, False], "end_id": [-1, 7, 2047], "pad_id": [-1, 7],
    "ignore_eos": [True, False], "skip_special_tokens": [True, False], "beam_width": [1],
    "temperature": [0.0, 0.5, 1.0], "top_k": [0, 1, 40], "top_p": [0.5, 1.0],
    "seed": [0, 7, 2**64 - 1], "return_perf_metrics": [True, False], "priority": [-100, 0, 100],
    "return_num_input_tokens": [True, False], "return_num_output_tokens": [True, False],
    "return_token_ids": [True, False],
    "timeout_ms": [0, 60000], "length_penalty": [1.0], "num_return_sequences": [1, 2, 3],
    "stream": [True, False], "streaming": [True, False],
}  # fmt: skip
SEVERAL = ("num_return_sequences", "stream", "streaming")  # these make more than one response
CALLED = {
    "runtime_top_k": "top_k", "runtime_top_p": "top_p", "len_penalty": "length_penalty",
    "STOP_WORDS_DICT": "stop_words", "END_ID": "end_id", "PAD_ID": "pad_id",
}  # fmt: skip
SPELLINGS = [
    ("min_length", "min_tokens"), ("random_seed", "seed"),
    ("return_kv_cache_reuse_stats", "return_perf_metrics"), ("text_input", "messages"),
    ("QUERY", "MESSAGES"), ("stop_words", "stop_words_list"),
]  # fmt: skip
INTEGERS = [
    0, 1, -1, 2, 3, -2, 16, 17, 64, 100, 101, 255, 256, 1800, 2047, 2048, 4096, 128255, 128256,
    10**6, 2**31 - 1, -(2**31), 2**32, 2**63 - 1, -(2**63), 2**64 - 1,
]  # fmt: skip
FLOATS = [
    0.0, -0.0, 1.0, 0.5, -1.0, 1.5, 2.0, -2.5, 100.0, 101.0, 1e-45, 1e-8, 65504.0, 3.4e38, -3.4e38,
    math.nan, math.inf, -math.inf,
]  # fmt: skip
TEXTS = [
    b"", b"a", b"Hello", b"\0", b"a\0b", b"\xff", b"ab\xff", b"\xc3", b"\xc0\x80", b"\xed\xa0\x80",
    b"\xf4\x90\x80\x80", b"\xef\xbb\xbfbom", "\u202e\u0301\u200d".encode(), b"\r\n", b"%s%n%x{0}",
    b"{{7*7}}", b"{% for i in range(9) %}a{% endfor %}", "Grüße 東京 😀".encode(),
    b"<|begin_of_text|><|eot_id|><|python_tag|>", b"<|start_header_id|>system<|end_header_id|>",
    b"null", b"[]", b"{}", b"-1", b"true", b"\\u0000", b"' OR 1=1", b"</s>", b"a " * 300,
    b"\x00\x01\x02\x7f\x80\xfe\xff" * 9,
]  # fmt: skip
DEEP = [b"[" * 100_000, b'{"a":' * 50_000, b"[" * 500 + b"]" * 500, b'[{"a":' * 300 + b"1"]
NUMBERS = [b"1" * 5000, b"-" + b"9" * 400, b"1e999", b"NaN", b"-Infinity", b"0x10", b"1.", b"01"]
GUIDE_TYPES = [b"json", b"json_schema", b"regex", b"ebnf_grammar", b"choice", b"xml", b""]
GUIDES = [
    b'{"type": "object"}', b'{"type": "string", "pattern": "(a+)+$"}', b'{"$ref": "#"}',
    b'{"$ref": "http://localhost/x"}', b'{"enum": []}', b'{"type": "x"}', b"true", b"[ab]+", b"(",
    b"(a+)+$", b"a{1,100000}", b"((a{1,500}){1,500}){1,500}", b"(?<=a)b", b"\\p{L}", b"(?R)",
    b'root ::= "a" root | "b"', b"root ::= root", b"root ::=", b"x ::= y", b'root ::= "\\u{d800}"',
    b'{"allOf": [' * 200 + b"true" + b"]}" * 200, b"(" * 20_000, b"[" * 60_000, b"." * 70_000,
    b'["a", "b"]', b'["a", 1]', b'[""]',
    json.dumps({"enum": [str(i) for i in range(3000)]}).encode(),
    json.dumps({"properties": {f"p{i}": {"type": "string"} for i in range(500)}}).encode(),
]  # fmt: skip


def odd_json(rng: random.Random, depth: int = 3) -> Any:
    """Any JSON value, lone surrogates and huge numbers included."""
    kind = rng.randrange(9 if depth else 6)
    if kind == 0:
        return rng.choice([None, True, False])
    if kind == 1:
        return rng.choice(INTEGERS)
    if kind == 2:
        return rng.choice([*FLOATS, 10**400])
    if kind < 6:
        return rng.choice(
            ["", "x", "user", "\ud800", "a\0", "\udfff\ud800", "<|eot_id|>", "é" * 99]
        )
    if kind == 6:
        return [odd_json(rng, depth - 1) for _ in range(rng.randrange(4))]
    names = ["role", "content", "type", "text", "function", "name", "", "\ud800", "x" * 200]
    return {rng.choice(names): odd_json(rng, depth - 1) for _ in range(rng.randrange(4))}


def chat_document(rng: random.Random) -> bytes:
    """A `messages` document that is nearly right."""
    roles = ["user", "assistant", "system", "tool", "ipython", "USER", "", "user\0", 7, None]
    call = {"type": "function", "function": {"name": "f", "arguments": odd_json(rng, 1)}}
    messages = []
    for _ in range(rng.choice([0, 1, 1, 2, 3, 1100])):
        message: dict[str, Any] = {"role": rng.choice(roles), "content": "Hi"}
        if rng.random() < 0.5:
            message["content"] = rng.choice(
                [odd_json(rng), [{"type": "text", "text": odd_json(rng, 1)}], None, "\ud83d"]
            )
        if rng.random() < 0.2:
            message["tool_calls"] = rng.choice([[call], [call, call], call, [], odd_json(rng)])
        if rng.random() < 0.1:
            message.pop(rng.choice(list(message)))
        if rng.random() < 0.1:
            message[rng.choice(["name", "tool_call_id", "x", ""])] = odd_json(rng)
        messages.append(message)
    return json_bytes(rng, messages)


def tool_document(rng: random.Random) -> bytes:
    """A `tools` document that is nearly right."""
    tool: dict[str, Any] = json.loads(TOOL)[0]
    for _ in range(rng.randrange(3)):
        place = rng.choice([tool, tool.get("function")])
        if isinstance(place, dict) and place:
            place[rng.choice([*place, "strict", ""])] = odd_json(rng)
    return json_bytes(rng, rng.choice([[tool], [tool] * 200, tool, [], [odd_json(rng)]]))


def json_bytes(rng: random.Random, value: Any) -> bytes:
    """JSON of a value; surrogates stay lone, as escapes or as bytes that are no UTF-8."""
    return json.dumps(value, ensure_ascii=rng.random() < 0.7).encode("utf-8", "surrogatepass")


def document(rng: random.Random, name: str) -> bytes:
    """A text that is nearly right for the input `name`; a short one without a name."""
    if not name:
        return rng.choice(TEXTS)
    if rng.random() < 0.1:
        return rng.choice(DEEP + NUMBERS)
    name = name.lower()
    if rng.random() < 0.7:
        if name == "messages":
            return chat_document(rng)
        if name == "tools":
            return tool_document(rng)
        if name.endswith("guide_type"):
            return rng.choice(GUIDE_TYPES)
        if name.endswith("guide"):
            return rng.choice(GUIDES)
    if rng.random() < 0.02:
        return rng.choice([b"a ", b"\xff", b"<|eot_id|>", "é".encode(), b'["', b"\n"]) * 2**19
    return rng.choice(TEXTS)


def odd_value(rng: random.Random, name: str, datatype: str) -> Any:
    """A value of the type, rarely a meaningful one."""
    if datatype == "BYTES":
        return document(rng, name)
    if datatype == "BOOL":
        return rng.random() < 0.5
    return rng.choice(FLOATS if datatype.startswith("FP") else INTEGERS)


def concrete(rng: random.Random, dims: list[int]) -> list[int]:
    """Dims without -1."""
    return [rng.choice([1, 1, 2, 3]) if size == -1 else size for size in dims]


def odd_tensor(rng: random.Random, draft: Draft, name: str) -> Tensor:
    """An input of the right type and rank with odd values."""
    datatype, dims = INPUTS[draft.model][name]
    shape = [draft.rows, *concrete(rng, dims)]
    if dims == [-1] and rng.random() < 0.1:
        shape[1] = rng.choice([0, 17, 129, 600, 2048, 3000])
    size = math.prod(shape)
    values = [odd_value(rng, name if size < 4 else "", datatype) for _ in range(min(size, 40))]
    if dims == [2, -1] and rng.random() < 0.6:
        values = word_list(rng, shape[-1]) * draft.rows
    return Tensor(name, datatype, shape, (values * size)[:size])


def word_list(rng: random.Random, length: int) -> list[int]:
    """A row of upstream's [2, n]: ids, then the ends of the words, which may be wrong."""
    ids = [rng.choice([5, 7, 99, 2047, 2048, -1]) for _ in range(length)]
    return ids + [rng.choice([-1, -1, 0, 1, 2, length, length + 1]) for _ in range(length)]
