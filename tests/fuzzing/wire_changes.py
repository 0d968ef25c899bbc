"""Changes to how a request is sent: sizes, bytes, bodies, headers."""

from __future__ import annotations

import random
import struct
from typing import Any

from tests.fuzzing.changes import ANY, JSON, RAW, TENSORS, change
from tests.fuzzing.drafts import INPUTS, OUTPUTS, Draft
from tests.fuzzing.values import odd_json


@change(3, RAW)
def wrong_raw_size(rng: random.Random, draft: Draft) -> bool:
    tensor = rng.choice(draft.tensors)
    data = tensor.packed()
    cut = data[: rng.randrange(max(1, len(data)))]
    tensor.raw = rng.choice([cut, data + b"\0", data + data, b""])
    return tensor.raw != data


@change(4, RAW)
def wrong_prefix(rng: random.Random, draft: Draft) -> bool:
    texts = [tensor for tensor in draft.tensors if tensor.datatype == "BYTES" and tensor.values]
    if not texts:
        return wrong_raw_size(rng, draft)
    tensor = rng.choice(texts)
    data = bytearray(tensor.packed())
    length = len(tensor.values[0])
    odd = rng.choice([0, length + 1, length - 1, 2**31, 2**32 - 1, 2**24, length + 4])
    data[:4] = struct.pack("<I", odd % 2**32)
    tensor.raw = bytes(data) + rng.choice([b"", b"", b"\0\0\0", bytes(8)])
    return False


@change(2, RAW)
def raw_count(rng: random.Random, draft: Draft) -> bool:
    draft.raw_change = rng.choice([-1, 1])
    return draft.raw_change < 0  # what is left over, Triton does not look at


@change(2, JSON)
def wrong_binary_size(rng: random.Random, draft: Draft) -> bool:
    draft.binary_change = rng.choice([-1, 1, 2**40])
    return False


@change(3, RAW)
def typed_contents(rng: random.Random, draft: Draft) -> bool:
    draft.typed = True
    return False


@change(4, TENSORS)
def odd_outputs(rng: random.Random, draft: Draft) -> bool:
    known = list(OUTPUTS[draft.model])
    wrong = ["", "x", "TEXT_OUTPUT", "y" * 3000, *INPUTS[draft.model]]
    for _ in range(rng.randrange(1, 4)):
        name = rng.choice(known if rng.random() < 0.7 else wrong)
        parameters = odd_output_parameters(rng)
        if OUTPUTS[draft.model].get(name, ("BYTES",))[0] == "BYTES":
            # Triton 2.51 divides by the size of a string there, which is 0, and dies.
            parameters.pop("classification", None)
        draft.outputs.append((name, parameters))
    return False


def odd_output_parameters(rng: random.Random) -> dict[str, Any]:
    return rng.choice(
        [
            {}, {}, {}, {"binary_data": True}, {"binary_data": "x"}, {"unknown": 1},
            {"classification": rng.choice([0, 1, 3, -1, 2**40])}, {"binary_data": False},
            {"shared_memory_region": "none", "shared_memory_byte_size": 64},
        ]
    )  # fmt: skip


@change(2, TENSORS)
def shared_memory(rng: random.Random, draft: Draft) -> bool:
    tensor = rng.choice(draft.tensors)
    tensor.parameters["shared_memory_region"] = rng.choice(["none", "", 7, "x" * 999])
    if rng.random() < 0.8:
        tensor.parameters["shared_memory_byte_size"] = rng.choice([0, 8, -1, 2**62, "8"])
    if rng.random() < 0.3:
        tensor.parameters["shared_memory_offset"] = rng.choice([0, -1, 2**62])
    return False


@change(2, ANY)
def wrong_model(rng: random.Random, draft: Draft) -> bool:
    if rng.random() < 0.5:
        draft.version = rng.choice(["2", "0", "-1", "x", "99999999999999999999", "é"])
    else:
        draft.target = rng.choice(["none", "x" * 3000, "ensemble ", "Ensemble", "é", "1"])
    return True


@change(3, ANY)
def mangled_bytes(rng: random.Random, draft: Draft) -> bool:
    seed = rng.random()
    draft.mangle = lambda data: mangled(random.Random(seed), data)
    return False


def mangled(rng: random.Random, data: bytes) -> bytes:
    """The bytes with a few changed, or cut off, or with others in between."""
    place = rng.randrange(len(data) + 1)
    kind = rng.randrange(5)
    if kind == 0:
        return data[:place]
    if kind == 1:
        return data[:place] + rng.randbytes(rng.randrange(1, 9)) + data[place:]
    if kind == 2:
        return data[place:] + data[:place]
    changed = bytearray(data)
    for _ in range(rng.randrange(1, 4) if data else 0):
        changed[rng.randrange(len(data))] = rng.choice([0, 255, 0x22, rng.randrange(256)])
    return bytes(changed)


@change(5, JSON)
def malformed_body(rng: random.Random, draft: Draft) -> bool:
    bodies = [
        b"", b"null", b"[]", b"7", b'"x"', b"{", b"}", b"{}{}", b"\0", b"\xff\xfe", b"{'a': 1}",
        b'{"text_input": NaN}', b'{"text_input": "a", "text_input": "b", "max_tokens": 1}',
        b'{"text_input": "\\ud800", "max_tokens": 1}', b'{"text_input": "a\xff", "max_tokens": 1}',
        b'{"text_input": "a", "max_tokens": ' + b"9" * 500 + b"}", b'{"inputs": {}}',
        b'{"inputs": [{}]}', b'{"inputs": [null]}', b'{"inputs": "x"}', b'{"inputs": []}',
        b'{"id": 7, "inputs": []}', b'{"parameters": 7, "inputs": []}', b'{"outputs": 7}',
        b'{"text_input": {"a": [1, {"b": null}]}, "max_tokens": [[[1]]]}', b" " * 10_000,
        b'{"a": ' * 500 + b"1" + b"}" * 500,
    ]  # fmt: skip
    body = rng.choice(bodies)
    draft.mangle = lambda data: body
    return False


@change(4, JSON)
def odd_json_value(rng: random.Random, draft: Draft) -> bool:
    tensor = rng.choice(draft.tensors)
    tensor.values = [odd_json(rng) for _ in range(rng.choice([0, 1, 1, 2, 50]))]
    tensor.datatype += "*"  # not to be packed: goes into JSON as it is
    return False


@change(3, JSON)
def odd_header(rng: random.Random, draft: Draft) -> bool:
    name, values = rng.choice(
        [
            ("Inference-Header-Content-Length", ["0", "-1", "5", "99999999", "x", "", "9" * 40]),
            ("Content-Encoding", ["gzip", "deflate", "br", "x"]),
            ("Accept-Encoding", ["gzip", "deflate", "br", "x" * 500]),
            ("Content-Type", ["text/plain", "", "application/octet-stream", "x" * 500]),
            ("method", ["GET", "PUT", "DELETE", "PATCH", "OPTIONS"]),
        ]
    )
    value = rng.choice(values)
    if name == "method":
        draft.method = value
    else:
        draft.headers[name] = value
    return False
