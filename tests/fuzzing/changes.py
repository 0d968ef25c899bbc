"""Changes to the tensors of a valid request; each returns whether the result must be refused."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from dataclasses import replace

from tests.fuzzing.drafts import CONFIGS, INPUTS, NUMPY, Draft, Tensor
from tests.fuzzing.values import SPELLINGS, odd_tensor, odd_value

Change = Callable[[random.Random, Draft], bool]
CHANGES: dict[Change, tuple[int, str]] = {}  # weight, and the kinds of wire that can carry it
TENSORS, RAW, JSON, ANY = "tensors", "raw", "json", "any"


def change(weight: int, wires: str) -> Callable[[Change], Change]:
    """Register a change."""

    def register(function: Change) -> Change:
        CHANGES[function] = (weight, wires)
        return function

    return register


@change(30, ANY)
def odd_input(rng: random.Random, draft: Draft) -> bool:
    name = rng.choice(list(INPUTS[draft.model]))
    draft.tensors = [tensor for tensor in draft.tensors if tensor.name != name]
    draft.tensors.append(odd_tensor(rng, draft, name))
    return False


@change(8, ANY)
def odd_values(rng: random.Random, draft: Draft) -> bool:
    tensor = rng.choice(draft.tensors)
    tensor.values = [odd_value(rng, tensor.name, tensor.datatype) for _ in tensor.values]
    return False


@change(5, ANY)
def odd_text(rng: random.Random, draft: Draft) -> bool:
    texts = [name for name, (datatype, _) in INPUTS[draft.model].items() if datatype == "BYTES"]
    if not texts:
        return odd_input(rng, draft)
    name = rng.choice([*texts, *(text for text in texts if text.lower() in ("messages", "tools"))])
    draft.tensors = [tensor for tensor in draft.tensors if tensor.name.lower() != "text_input"]
    draft.tensors.append(odd_tensor(rng, draft, name))
    return False


@change(3, TENSORS)
def wrong_datatype(rng: random.Random, draft: Draft) -> bool:
    tensor = rng.choice(draft.tensors)
    right = tensor.datatype
    tensor.datatype = rng.choice([name for name in [*NUMPY, "BYTES"] if name != right])
    tensor.values = [odd_value(rng, "", tensor.datatype) for _ in tensor.values]
    return True


@change(2, RAW)
def unknown_datatype(rng: random.Random, draft: Draft) -> bool:
    tensor = rng.choice(draft.tensors)
    tensor.raw = tensor.packed()
    tensor.datatype = rng.choice(["", "STRING", "int32", "BF16", "FLOAT", "x" * 1000])
    return True


@change(6, TENSORS)
def wrong_shape(rng: random.Random, draft: Draft) -> bool:
    tensor = rng.choice(draft.tensors)
    tensor.shape = rng.choice(
        [
            [], [1], [0], [-1], tensor.shape[1:], [*tensor.shape, 1], [1, *tensor.shape],
            [draft.rows, 0], [0, *tensor.shape[1:]], [draft.rows, -1], [64, 1], [65, 1],
            [2**31, 1], [2**32, 2**32], [2**62, 4], [-1, -1], [1] * 40, [1, 2, 1], [2, 1, 1],
        ]
    )  # fmt: skip
    size = math.prod(tensor.shape)
    if 0 <= size <= 4096 and rng.random() < 0.8:
        tensor.values = (tensor.values * (size + 1))[:size]
    return False


@change(4, TENSORS)
def mismatched_rows(rng: random.Random, draft: Draft) -> bool:
    tensor = rng.choice(draft.tensors)
    tensor.shape = [draft.rows + rng.choice([1, 2, 63]), *tensor.shape[1:]]
    tensor.values = (tensor.values * tensor.shape[0])[: math.prod(tensor.shape)]
    return len(draft.tensors) > 1


@change(2, TENSORS)
def large_batch(rng: random.Random, draft: Draft) -> bool:
    most: int = CONFIGS[draft.model].max_batch_size
    rows = rng.choice([16, most, most + 1, 2 * most])
    for tensor in draft.tensors:
        tensor.values = (tensor.values * rows)[: rows * math.prod(tensor.shape[1:])]
        tensor.shape = [rows, *tensor.shape[1:]]
    draft.rows = rows
    return rows > most


@change(3, ANY)
def missing_input(rng: random.Random, draft: Draft) -> bool:
    tensor = rng.choice(draft.tensors)
    draft.tensors.remove(tensor)
    required = ("text_input", "messages", "QUERY", "MESSAGES",
                "input_ids", "request_output_len", "TOKENS_BATCH", "SEQUENCE_LENGTH")  # fmt: skip
    return tensor.name in required


@change(1, ANY)
def no_inputs(rng: random.Random, draft: Draft) -> bool:
    draft.tensors = []
    return True


@change(3, ANY)
def both_spellings(rng: random.Random, draft: Draft) -> bool:
    known = INPUTS[draft.model]
    pairs = [pair for pair in SPELLINGS if known.keys() >= set(pair)]
    if not pairs:
        return odd_input(rng, draft)
    pair = rng.choice(pairs)
    draft.tensors = [tensor for tensor in draft.tensors if tensor.name not in pair]
    draft.tensors += [odd_tensor(rng, draft, name) for name in pair]
    return False


@change(2, TENSORS)
def duplicate_input(rng: random.Random, draft: Draft) -> bool:
    tensor = rng.choice(draft.tensors)
    again = replace(tensor, shape=list(tensor.shape), values=list(tensor.values))
    if rng.random() < 0.5:
        again.values = [odd_value(rng, tensor.name, tensor.datatype) for _ in again.values]
    draft.tensors.insert(rng.randrange(len(draft.tensors) + 1), again)
    return False


@change(3, ANY)
def unknown_input(rng: random.Random, draft: Draft) -> bool:
    names = ["", "text", "TEXT_INPUT", "max_token", "prompt", "x" * 5000, "a\0b", "é", "../x", "{}"]
    name = rng.choice(names)
    draft.tensors.append(Tensor(name, "INT32", [draft.rows, 1], [1] * draft.rows))
    return True


@change(4, ANY)
def odd_parameter(rng: random.Random, draft: Draft) -> bool:
    names = [
        "id", "cancel_id", "named_errors", "triton_final_response", "sequence_id", "priority",
        "triton_enable_empty_final_response", "sequence_start", "timeout", "binary_data_output",
        "temprature", "", "x" * 5000, 'a"b\\', "é\0", "headers", "{0}",
    ]  # fmt: skip
    values = [True, False, 0, -1, 2**63 - 1, -(2**63), 1e308, -0.5, "", "x", "é\0", "x" * 5000]
    for _ in range(rng.randrange(1, 3)):
        draft.parameters[rng.choice(names)] = rng.choice(values)
    return False
