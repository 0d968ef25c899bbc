"""Upstream's clients of the single models, rewritten: what each sends, and how it reads answers.

From tensorrtllm_backend v0.8 to v0.19 and TensorRT-LLM's triton_backend up to 1.2; the facts are
theirs, the words are not.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from serving.child_server import ServerProcess

from tests.support.triton_calls import Arrays
from tests.support.upstream_calls import (
    Results,
    answers,
    flag,
    float32,
    index_of,
    infer,
    int32,
    text,
)
from tests.support.upstream_contract import PREPROCESSING_OUTPUTS, TENSORRT_LLM_OUTPUTS, tensors

# What lib/triton_decoder.py asks of each step, by name.
DECODER_LLM = list(tensors(TENSORRT_LLM_OUTPUTS))  # all of tensorrt_llm's outputs
DECODER_PREPROCESSING = [  # and nearly all of preprocessing's
    name
    for name in tensors(PREPROCESSING_OUTPUTS)
    if not name.startswith(("ASPECT_RATIO_", "CROSS_", "REQUEST_OUTPUT_LEN"))
]
DECODER_PASSES_ON = {
    "INPUT_ID": "input_ids",
    "DECODER_INPUT_ID": "decoder_input_ids",
    "REQUEST_INPUT_LEN": "input_lengths",
    "BAD_WORDS_IDS": "bad_words_list",
    "STOP_WORDS_IDS": "stop_words_list",
    "EMBEDDING_BIAS": "embedding_bias",
    "OUT_PAD_ID": "pad_id",
    "OUT_END_ID": "end_id",
    "OUT_PROMPT_TABLE_EXTRA_IDS": "prompt_table_extra_ids",
}


def inflight_request(prompt_ids: list[int], output_len: int, streaming: bool) -> Arrays:
    """inflight_batcher_llm_client.py with --input-tokens-csv: its ten tensors, and its defaults."""
    return {
        "input_ids": int32(prompt_ids),
        "input_lengths": int32(len(prompt_ids)),
        "request_output_len": int32(output_len),
        "beam_width": int32(1),
        "temperature": float32(1.0),
        "streaming": flag(streaming),
        "end_id": int32(-1),
        "pad_id": int32(50256),
        "runtime_top_k": int32(1),
        "runtime_top_p": float32(0.0),
    }


def inflight_stop() -> Arrays:
    """The same client's stop request: its other tensors mean nothing."""
    return {
        "input_ids": int32(-123456789),
        "input_lengths": int32(0),
        "request_output_len": int32(0),
        "stop": flag(True),
    }


def inflight_tokens(results: Results, prompt_ids: list[int], echoed: bool) -> dict[int, list[int]]:
    """How it reads: tokens without the prompt, by sequence; `echoed`: the prompt is cut off."""
    tokens: dict[int, list[int]] = {}
    for result in results:
        output_ids = result.as_numpy("output_ids")
        if output_ids is None:  # the answer to a stop request may hold nothing
            continue
        if result.as_numpy("sequence_length")[0][0] > 0:
            ids = tokens.setdefault(index_of(result, "sequence_index"), [])
            ids += output_ids[0][0].tolist()
    return {index: ids[len(prompt_ids) if echoed else 0 :] for index, ids in tokens.items()}


def benchmark_request(prompt_ids: list[int], output_len: int) -> Arrays:
    """benchmark_core_model.py without a tokenizer: end id 1 and pad id 0, whatever they are."""
    return {
        "input_ids": int32(prompt_ids),
        "input_lengths": int32(len(prompt_ids)),
        "request_output_len": int32(output_len),
        "pad_id": int32(0),
        "end_id": int32(1),
    }


def benchmark_length(result: Any) -> tuple[str, int]:
    """What it reads of a response: the request's id, and the third size of the *first* output."""
    response = result.get_response(as_json=True)
    return response["id"], int(response["outputs"][0]["shape"][2])


def speculative_lists(server: ServerProcess, prompt: str) -> Arrays:
    """e2e_grpc_speculative_decoding_client.py's first call: all five are read unasked."""
    request = {"QUERY": text(prompt), "REQUEST_OUTPUT_LEN": int32(5)}
    result = infer(server, "preprocessing", request)
    names = ("INPUT_ID", "BAD_WORDS_IDS", "STOP_WORDS_IDS", "OUT_END_ID", "OUT_PAD_ID")
    return {name: result.as_numpy(name).astype(np.int32) for name in names}


def decoder_prepared(server: ServerProcess, request: Arrays) -> Arrays:
    """lib/triton_decoder.py's call of preprocessing, as the tensors that it passes on."""
    (result,) = answers(server, "preprocessing", request, outputs=DECODER_PREPROCESSING)
    outputs = {name: result.as_numpy(name) for name in DECODER_PASSES_ON}
    return {DECODER_PASSES_ON[name]: a for name, a in outputs.items() if a is not None}


def decoder_generated(server: ServerProcess, prepared: Arrays, **options: Any) -> Results:
    """Its call of tensorrt_llm; two logits flags are always there, false."""
    logits = {"return_context_logits": flag(False), "return_generation_logits": flag(False)}
    request = {**prepared, **options, **logits}
    return answers(server, "tensorrt_llm", request, outputs=DECODER_LLM, request_id="a-uuid")


def decoder_text(server: ServerProcess, tokens: Any, lengths: Any) -> bytes:
    """Its call of postprocessing: the first of one dimension of texts."""
    (result,) = answers(
        server,
        "postprocessing",
        {"TOKENS_BATCH": tokens, "SEQUENCE_LENGTH": lengths},
        outputs=["OUTPUT"],
    )
    return bytes(result.as_numpy("OUTPUT")[0])
