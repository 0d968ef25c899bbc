"""Text clients that were written for upstream's ensemble, against the real server.

upstream_text_clients.py imitates them.
"""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc
import tritonclient.http
from contract.write_table import read_configs
from llama_fp4 import Client
from serving.child_server import ServerProcess

from tests.support.triton_calls import infer_inputs, post
from tests.support.upstream_calls import (
    UpstreamStream,
    answers,
    flag,
    int32,
    is_final,
    text,
)
from tests.support.upstream_text_clients import (
    PERF_METRICS,
    TIMES,
    benchmark_events,
    end_to_end_request,
    end_to_end_texts,
    genai_perf_request,
    langchain_request,
    langchain_text,
    openai_request,
    openai_text,
    openai_usage,
    stacked,
)

TEXT = "Grüße aus 東京 😀! The end."
SHORT = "The capital of France is"  # the demo answers with 2 tokens, and ends


@pytest.mark.parametrize("streaming", [True, False])
def test_text_client(replay_server: ServerProcess, replay_client: Client, streaming: bool) -> None:
    """end_to_end_grpc_client.py --check-outputs: the prompt is echoed only without streaming."""
    request = end_to_end_request(TEXT, 20, streaming)
    results = answers(replay_server, "ensemble", request, outputs=["text_output"])
    answer = replay_client.generate(TEXT, max_tokens=20).text
    assert end_to_end_texts(results, streaming) == {(0, 0): answer if streaming else TEXT + answer}


@pytest.mark.parametrize("streaming", [True, False])
def test_text_client_on_bls(
    replay_server: ServerProcess, replay_client: Client, streaming: bool
) -> None:
    """end_to_end_grpc_client.py --model-name tensorrt_llm_bls: a stream of one response."""
    request = end_to_end_request(TEXT, 20, streaming)
    results = answers(replay_server, "tensorrt_llm_bls", request, outputs=["text_output"])
    answer = replay_client.generate(TEXT, max_tokens=20).text
    assert end_to_end_texts(results, streaming) == {(0, 0): answer if streaming else TEXT + answer}


@pytest.mark.parametrize("streaming", [True, False])
def test_text_client_sends_a_batch(
    replay_server: ServerProcess, replay_client: Client, streaming: bool
) -> None:
    """end_to_end_grpc_client.py --batch-inputs -n 2: two indices identify each response."""
    prompts = ["This is a test", "I want you to", "The cat is"]
    request = stacked(
        [
            end_to_end_request(prompt, 5, streaming) | {"num_return_sequences": int32(2)}
            for prompt in prompts
        ]
    )
    names = ["text_output", "sequence_index", "batch_index"]
    texts = end_to_end_texts(answers(replay_server, "ensemble", request, outputs=names), streaming)
    if streaming:
        alone = [replay_client.generate(prompt, max_tokens=5).text for prompt in prompts]
    else:
        alone = [prompt + replay_client.generate(prompt, max_tokens=5).text for prompt in prompts]
    assert texts == {(row, n): alone[row] for row in range(3) for n in range(2)}


def test_text_client_without_biased_words(replay_server: ServerProcess) -> None:
    """speculative_decoding_test.py calls end_to_end_grpc_client.py with empty lists: [1, 0]."""
    request = end_to_end_request("abc def", 9, streaming=False) | {
        "stop_words": text([" def", "never"]),
        "embedding_bias_words": np.empty((1, 0), object),
        "embedding_bias_weights": np.empty((1, 0), np.float32),
    }
    results = answers(replay_server, "ensemble", request, outputs=["text_output"], request_id="1")
    assert end_to_end_texts(results, streaming=False) == {(0, 0): "abc defabc"}


@pytest.mark.parametrize("streaming", [True, False])
def test_text_client_reads_metrics(replay_server: ServerProcess, streaming: bool) -> None:
    """end_to_end_grpc_client.py --return-perf-metrics: all ten, [0][0] of every response."""
    request = end_to_end_request(TEXT, 20, streaming) | {"return_perf_metrics": flag(True)}
    outputs = ["text_output", *PERF_METRICS]
    for result in answers(replay_server, "ensemble", request, outputs=outputs):
        read = {name: result.as_numpy(name)[0][0] for name in PERF_METRICS}
        assert read["arrival_time_ns"] > 0
        assert read["acceptance_rate"] == read["total_draft_tokens"] == 0
    times = [read[name] for name in TIMES]
    assert times == sorted(times)


def test_text_client_reads_log_probs(demo_server: ServerProcess) -> None:
    """end_to_end_grpc_client.py --return-log-probs: [1, 1] and [1, 1, tokens]."""
    request = end_to_end_request("One two three", 5, streaming=False)
    request |= {"return_log_probs": flag(True), "end_id": int32(-1)}
    outputs = ["text_output", "cum_log_probs", "output_log_probs"]
    (result,) = answers(demo_server, "ensemble", request, outputs=outputs)
    log_probs = result.as_numpy("output_log_probs")
    assert log_probs.shape == (1, 1, 5)
    assert result.as_numpy("cum_log_probs").shape == (1, 1)
    assert result.as_numpy("cum_log_probs")[0, 0] == pytest.approx(log_probs.sum(), rel=1e-5)


# --- genai-perf and perf_analyzer ---


def test_perf_analyzer_finds_its_way(replay_server: ServerProcess) -> None:
    """perf_analyzer's model_parser.cc: metadata, configuration, steps and statistics."""
    with tritonclient.grpc.InferenceServerClient(replay_server.ports.url("grpc")) as client:
        metadata = client.get_model_metadata("ensemble", as_json=True)
        config = client.get_model_config("ensemble", as_json=True)["config"]
        for step in config["ensemble_scheduling"]["step"]:
            assert step["model_version"] == "-1"  # statistics are asked for without one
            (stats,) = client.get_inference_statistics(step["model_name"]).model_stats
            assert (stats.name, stats.version) == (step["model_name"], "1")
    assert config["platform"] == "ensemble"
    assert config["model_transaction_policy"]["decoupled"] is True
    described = {tensor["name"]: tensor for tensor in metadata["inputs"]}
    assert {tensor["name"] for tensor in config["input"]} == set(described)
    # genai-perf gives each of these one value, and treats all other inputs as optional.
    for name, datatype in genai_perf_tensors().items():
        assert (described[name]["datatype"], described[name]["shape"]) == (datatype, ["-1", "1"])
    optional = {tensor["name"] for tensor in config["input"] if tensor.get("optional")}
    assert set(described) - optional <= set(genai_perf_tensors())


def genai_perf_tensors() -> dict[str, str]:
    return {t.name(): t.datatype() for t in infer_inputs(genai_perf_request("", 1))}


def test_genai_perf_streams(demo_server: ServerProcess) -> None:
    """genai-perf -m ensemble --backend tensorrtllm --streaming: every output wanted, N tokens."""
    outputs = [output.name for output in read_configs()["ensemble"].output]
    with UpstreamStream(demo_server) as stream:
        for request_id in ("281474976710656", "281474976710657"):
            request = genai_perf_request(SHORT, 12)
            stream.send("ensemble", request, outputs, request_id, empty_final=True)
        results = stream.close()
    for request_id in ("281474976710656", "281474976710657"):
        mine = [result for result in results if result.get_response().id == request_id]
        assert [is_final(result) for result in mine] == [False] * (len(mine) - 1) + [True]
        assert all(result.as_numpy("text_output").shape == (1,) for result in mine)
        assert sum(result.as_numpy("num_output_tokens")[0, 0] for result in mine) == 12


# --- Triton's OpenAI frontend (server: python/openai/openai_frontend/engine) ---


@pytest.mark.parametrize("bos", ["", "<|begin_of_text|>"])
def test_openai_frontend_streams(demo_server: ServerProcess, bos: str) -> None:
    """utils/triton.py: deltas, and usage summed over the responses that hold both counts."""
    prompt = f"{bos}<|start_header_id|>user<|end_header_id|>\n\nHi<|eot_id|>"
    whole = answers(demo_server, "ensemble", openai_request(prompt, stream=False))
    deltas = answers(demo_server, "ensemble", openai_request(prompt, stream=True))
    assert 1 <= len(whole) <= 2
    assert is_final(whole[-1])
    assert "".join(map(openai_text, deltas)) == openai_text(whole[0])
    assert openai_usage(deltas) == openai_usage(whole)
    assert openai_usage(whole)[0] == 8  # the template's own <|begin_of_text|> is not doubled


def test_openai_frontend_stops_and_echoes(replay_server: ServerProcess) -> None:
    """utils/triton.py: `stop` as one row of words, `echo` where the configuration has the input."""
    names = {tensor.name for tensor in read_configs()["ensemble"].input}
    assert "exclude_input_in_output" in names
    more = {"stop_words": text(["zzz", " def"]), "exclude_input_in_output": flag(False)}
    request = openai_request("abc def", stream=False, **more)
    for model in ("ensemble", "tensorrt_llm_bls"):
        (result,) = answers(replay_server, model, request)
        assert openai_text(result) == "abc defabc"


# --- other clients of the ensemble ---


def test_langchain(replay_server: ServerProcess, replay_client: Client) -> None:
    """langchain_nvidia_trt/llms.py and llama_index's nvidia_triton, with v0.8's types."""
    request = langchain_request(TEXT, 12)
    expected = replay_client.generate(TEXT, max_tokens=12).text
    assert langchain_text(replay_server, request, ["</s>"]) == expected


CURL: list[tuple[str, dict[str, Any], list[str]]] = [
    ("README.md", {"max_tokens": 20, "bad_words": "", "stop_words": ""}, []),
    ("docs/llama.md", {"max_tokens": 20, "stop_words": "", "pad_id": 2, "end_id": 2}, []),
    ("its list", {"max_tokens": 20, "stop_words": ["focuses", "learn"]}, ["focuses", "learn"]),
    ("nested", {"parameters": {"max_tokens": 20, "stop_words": ["<|eot_id|>"]}}, []),
    ("nested, none", {"parameters": {"max_tokens": 20, "bad_words": [""]}}, []),
    ("ci/test.sh", {"max_tokens": 20, "pad_id": 2, "return_perf_metrics": True}, []),
]


@pytest.mark.parametrize("model", ["ensemble", "tensorrt_llm_bls"])
@pytest.mark.parametrize(("body", "stops"), [case[1:] for case in CURL], ids=[c[0] for c in CURL])
def test_curl_generate(
    replay_server: ServerProcess,
    replay_client: Client,
    model: str,
    body: dict[str, Any],
    stops: list[str],
) -> None:
    """curl of generate in the README, in docs/, in the CI and in tutorials: one JSON object."""
    question = "What is machine learning?"
    path = f"/v2/models/{model}/generate"
    status, answer = post(replay_server, path, {"text_input": question, **body})
    assert status == 200, answer
    said = json.loads(answer)
    expected = replay_client.generate(question, max_tokens=20, stop_words=stops).text
    assert said["text_output"] == expected
    assert (said["model_name"], said["model_version"]) == (model, "1")


BENCHMARKS: list[tuple[str, dict[str, Any]]] = [
    ("vLLM", {"temperature": 0.0, "top_p": 1.0, "min_length": 12}),
    ("sglang", {"temperature": 1e-6, "top_p": 1.0, "min_length": 12, "end_id": 1048576}),
    ("ignore_eos", {"temperature": 0.0, "top_p": 1.0, "ignore_eos": True}),
    ("curl", {"bad_words": "", "stop_words": "", "pad_id": 2, "end_id": -1}),
]


@pytest.mark.parametrize("body", [body for _, body in BENCHMARKS], ids=[n for n, _ in BENCHMARKS])
def test_benchmarks_generate_stream(demo_server: ServerProcess, body: dict[str, Any]) -> None:
    """async_request_trt_llm in vLLM's, sglang's and TensorRT-LLM's serving benchmarks."""
    asked = {"accumulate_tokens": True, "text_input": SHORT, "max_tokens": 12, "stream": True}
    events = benchmark_events(demo_server, asked | body)
    assert sum(event["num_output_tokens"] for event in events) == 12
    assert "".join(event["text_output"] for event in events)
