"""Upstream's clients of the ensemble, rewritten: what each sends, and how it reads the answer."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
from serving.child_server import ServerProcess

from tests.support.triton_calls import Arrays, post
from tests.support.upstream_calls import (
    Results,
    answers,
    flag,
    float32,
    index_of,
    int32,
    text,
    uint64,
)

# What end_to_end_grpc_client.py reads of every response when it asks for return_perf_metrics.
TIMES = ["arrival_time_ns", "first_scheduled_time_ns", "first_token_time_ns", "last_token_time_ns"]
PERF_METRICS = [
    *TIMES,
    "kv_cache_alloc_new_blocks",
    "kv_cache_reused_blocks",
    "kv_cache_alloc_total_blocks",
    "acceptance_rate",
    "total_accepted_draft_tokens",
    "total_draft_tokens",
]


def end_to_end_request(prompt: str, output_len: int, streaming: bool) -> Arrays:
    """end_to_end_grpc_client.py: what it sends with its default options."""
    return {
        "text_input": text(prompt),
        "max_tokens": int32(output_len),
        "stream": flag(streaming),
        "beam_width": int32(1),
        "temperature": float32(1.0),
        "exclude_input_in_output": flag(False),
    }


def stacked(requests: list[Arrays]) -> Arrays:
    """Its --batch-inputs: every tensor of every prompt, one below the other."""
    return {name: np.concatenate([r[name] for r in requests]) for name in requests[0]}


def end_to_end_texts(results: Results, streaming: bool) -> dict[tuple[int, int], str]:
    """The texts by batch and sequence, as it reads them: deltas joined, whole texts replaced."""
    texts: dict[tuple[int, int], str] = {}
    for result in results:
        place = index_of(result, "batch_index"), index_of(result, "sequence_index")
        new = result.as_numpy("text_output")[0].decode("utf-8")
        texts[place] = texts.get(place, "") + new if streaming else new
    return texts


def genai_perf_request(prompt: str, tokens: int) -> Arrays:
    """genai-perf's payload for --backend tensorrtllm with --output-tokens-mean-deterministic."""
    return {
        "text_input": text(prompt),
        "max_tokens": int32(tokens),
        "stream": flag(True),
        "min_length": int32(tokens),
    }


def openai_request(prompt: str, stream: bool, max_tokens: int = 16, **more: Any) -> Arrays:
    """Triton's OpenAI frontend: its schema's defaults are sent as values, the counts always."""
    return {
        "text_input": text(prompt),
        "stream": flag(stream),
        "max_tokens": int32(max_tokens),
        "top_p": float32(1.0),
        "temperature": float32(1.0),
        "frequency_penalty": float32(0.0),
        "presence_penalty": float32(0.0),
        "seed": uint64(7),
        "return_num_input_tokens": flag(True),
        "return_num_output_tokens": flag(True),
        **more,
    }


def openai_text(result: Any) -> str:
    """The response's only string, if any; the frontend turns anything else into an error."""
    output = result.as_numpy("text_output")
    assert output is None or output.size == 1
    return "" if output is None else output.reshape(-1)[0].decode()


def openai_usage(results: Results) -> tuple[int, int]:
    """(prompt, completion) tokens, of the responses that hold both counts."""
    counted = []
    for result in results:
        pair = [result.as_numpy(name) for name in ("num_input_tokens", "num_output_tokens")]
        if all(count is not None for count in pair):
            assert {count.dtype for count in pair} == {np.dtype(np.int32)}
            counted.append([int(count.reshape(-1)[0]) for count in pair])
    return counted[0][0], sum(output for _, output in counted)


def langchain_request(prompt: str, tokens: int) -> Arrays:
    """langchain_nvidia_trt's TritonTensorRTLLM (llama_index's NvidiaTriton sends the same)."""
    return {
        "text_input": text(prompt),
        "max_tokens": int32(tokens),
        "top_k": int32(1),
        "top_p": float32(0.0),
        "temperature": float32(1.0),
        "length_penalty": float32(1.0),
        "repetition_penalty": float32(1.0),
        "random_seed": uint64(42),
        "beam_width": int32(1),
        "stream": flag(True),
    }


def langchain_text(server: ServerProcess, request: Arrays, stop_words: list[str]) -> str:
    """How it reads: until the final flag, in JSON; a response without outputs is no text."""
    words: list[str] = []
    results = answers(server, "ensemble", request, outputs=["text_output"], request_id="77")
    for result in results:
        response = result.get_response(as_json=True)
        if "outputs" in response:
            word = "".join(part.decode() for part in result.as_numpy("text_output"))
            if word in stop_words:
                return "".join(words)
            words.append(word)
        if response["parameters"]["triton_final_response"].get("bool_param"):
            return "".join(words)
    raise AssertionError("no final response")


def benchmark_events(server: ServerProcess, body: dict[str, Any]) -> list[dict[str, Any]]:
    """async_request_trt_llm of vLLM's, sglang's and TensorRT-LLM's benchmarks: each data line."""
    status, events = post(server, "/v2/models/ensemble/generate_stream", body)
    assert status == 200, events
    lines = [line.strip() for line in events.splitlines() if line.strip()]
    assert all(line.startswith("data:") for line in lines)
    return [json.loads(line.removeprefix("data:")) for line in lines]
