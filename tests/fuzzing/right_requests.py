"""Valid requests, from which malformed ones are made."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

from tests.fuzzing.drafts import INPUTS, Draft, Entry, Tensor
from tests.fuzzing.values import CALLED, CHAT, RIGHT, SEVERAL


def right_request(rng: random.Random, entry: Entry, tokens: int) -> Draft:
    """A request that must be answered with `tokens` tokens."""
    single = entry.wire.startswith("generate")  # Triton adds the batch dimension there
    draft = Draft(
        entry.model, entry.model, rng.choice(["", "1"]), rng.choice([1, 1, 1, 2, 3]), [], {}
    )
    draft.rows = 1 if single else draft.rows
    if rng.random() < 0.8:
        draft.parameters["named_errors"] = True
    for name, shape, values in base_inputs(rng, entry, tokens):
        datatype = INPUTS[entry.model][name][0]
        draft.tensors.append(
            Tensor(name, datatype, [draft.rows, *shape], list(values) * draft.rows)
        )
    for name, (datatype, _) in INPUTS[entry.model].items():
        right = RIGHT.get(CALLED.get(name, name))
        if name in SEVERAL and not takes(entry, name):
            continue
        likely = 0.5 if name in SEVERAL else 0.15
        if right and rng.random() < likely:
            values = [rng.choice(right)] * draft.rows
            draft.tensors.append(Tensor(name, datatype, [draft.rows, 1], values))
    if rng.random() < 0.3:
        draft.id = f"fuzz-{rng.randrange(10**9)}"
    return draft


def takes(entry: Entry, name: str) -> bool:
    """Whether the responses that the input `name` makes fit through the entry."""
    whole = entry.model == "tensorrt_llm_bls" and name == "stream"
    return not whole and entry.wire != "generate"


def base_inputs(
    rng: random.Random, entry: Entry, tokens: int
) -> Iterator[tuple[str, list[int], list[Any]]]:
    """The required inputs: name, shape of a row, its values."""
    if entry.model == "postprocessing":
        yield "TOKENS_BATCH", [1, 4], [rng.randrange(2048) for _ in range(4)]
        yield "SEQUENCE_LENGTH", [1], [rng.randrange(5)]
        return
    if entry.model == "tensorrt_llm":
        yield "input_ids", [3], [rng.randrange(1792) for _ in range(3)]
        yield "input_lengths", [1], [rng.randrange(1, 4)]
        yield "request_output_len", [1], [tokens]
        return
    room = entry.model == "preprocessing"
    if rng.random() < 0.5:
        yield "QUERY" if room else "text_input", [1], [b"Hello there"]
    else:
        yield "MESSAGES" if room else "messages", [1], [CHAT]
    yield "REQUEST_OUTPUT_LEN" if room else "max_tokens", [1], [tokens]
