"""Clients that were written for upstream's ensemble, as they stand, against the real server.

The clients are retold in upstream_token_clients.py and upstream_text_clients.py.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc
import tritonclient.http
from conftest import MakeRepository
from contract_table import read_configs
from llama_fp4 import Client
from server_process import ServerProcess, free_ports
from triton_calls import infer_inputs, post
from tritonclient.utils import InferenceServerException
from upstream_calls import (
    UpstreamStream,
    answers,
    flag,
    infer,
    int32,
    is_final,
    plain_infer,
    text,
)
from upstream_text_clients import (
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
from upstream_token_clients import (
    benchmark_length,
    benchmark_request,
    decoder_generated,
    decoder_prepared,
    decoder_text,
    inflight_request,
    inflight_stop,
    inflight_tokens,
    speculative_lists,
)

IDS = [5, 6, 7, 8]  # the replay engine answers with them, from the first one on
TEXT = "Grüße aus 東京 😀! The end."
LONG = 1500  # tokens: 15 seconds of the echoing server
SHORT = "The capital of France is"  # the demo answers with 2 tokens, and ends
ECHO = 'key: "exclude_input_in_output" value { string_value: "%s" }'


@pytest.fixture(scope="module")
def echoing_server(
    make_repository: MakeRepository, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ServerProcess]:
    """A deployment with upstream's default: an unstreamed answer begins with its prompt.

    Of 100 tokens a second, so that there is time to stop it.
    """
    repository = make_repository("--runtime", "replay", "--step-seconds", "0.01")
    config = repository / "tensorrt_llm" / "config.pbtxt"
    lines = config.read_text(encoding="utf-8")
    assert ECHO % "true" in lines
    config.write_text(lines.replace(ECHO % "true", ECHO % "false"), encoding="utf-8")
    log = tmp_path_factory.mktemp("echoing") / "server.log"
    server = ServerProcess(repository, free_ports(), log)
    server.start()
    yield server
    assert server.stop() in (0, 1)  # 1 where a cancelled request is left, see test_cancellation.py


# --- inflight_batcher_llm/client/inflight_batcher_llm_client.py ---


@pytest.mark.parametrize("outputs", [[], ["output_ids", "sequence_length"]])
def test_token_client_streams(replay_server: ServerProcess, outputs: list[str]) -> None:
    """inflight_batcher_llm_client.py -S, and with --requested-outputs: those, and no others."""
    request = inflight_request(IDS, 10, streaming=True)
    results = answers(replay_server, "tensorrt_llm", request, outputs=outputs)
    names = [{output.name for output in result.get_response().outputs} for result in results]
    assert not outputs or all(given == set(outputs) for given in names)
    assert inflight_tokens(results, IDS, echoed=False) == {0: [*IDS, *IDS, 5, 6]}


@pytest.mark.parametrize("name", ["replay_server", "echoing_server"])
def test_token_client_asks_for_sequences(name: str, request: pytest.FixtureRequest) -> None:
    """inflight_batcher_llm_client.py -n 2, without --exclude-input-in-output where it echoes."""
    server: ServerProcess = request.getfixturevalue(name)
    asked = inflight_request(IDS, 6, streaming=False) | {"num_return_sequences": int32(2)}
    echoes = name == "echoing_server"
    if not echoes:
        asked["exclude_input_in_output"] = flag(True)
    tokens = inflight_tokens(answers(server, "tensorrt_llm", asked), IDS, echoes)
    assert tokens == {0: [*IDS, 5, 6], 1: [*IDS, 5, 6]}


def test_token_client_stops_by_id(echoing_server: ServerProcess) -> None:
    """inflight_batcher_llm_client.py --stop-after-ms: the same id and stream, `Streaming` true."""
    with UpstreamStream(echoing_server) as stream:
        stream.send("tensorrt_llm", inflight_request(IDS, LONG, streaming=True), request_id="1")
        stream.first()
        stream.send("tensorrt_llm", inflight_stop(), request_id="1", parameters={"Streaming": True})
        results = stream.close()
    assert 0 < len(inflight_tokens(results, IDS, echoed=False)[0]) < LONG
    assert [is_final(result) for result in results].count(True) == 2


def test_token_client_cancels(echoing_server: ServerProcess) -> None:
    """inflight_batcher_llm_client.py --stop-via-request-cancel: CANCELLED is what it expects."""
    with UpstreamStream(echoing_server) as stream:
        stream.send("tensorrt_llm", inflight_request(IDS, LONG, streaming=True))
        stream.first()
        with pytest.raises(InferenceServerException) as caught:
            stream.close(cancel=True)
    assert caught.value.status() == "StatusCode.CANCELLED"


def test_a_stop_request_without_a_request(replay_server: ServerProcess) -> None:
    """lib/triton_decoder.py's send_cancellation_request: at least one response, no error."""
    (result,) = answers(replay_server, "tensorrt_llm", inflight_stop(), request_id="long gone")
    assert is_final(result)


# --- tools/inflight_batcher_llm ---


@pytest.mark.parametrize("name", ["replay_server", "echoing_server"])
def test_core_model_benchmark(name: str, request: pytest.FixtureRequest) -> None:
    """benchmark_core_model.py --decoupled: one response a request, by id; the prompt is counted."""
    lengths = {str(number): number + 3 for number in range(8)}
    echoed = len(IDS) if name == "echoing_server" else 0  # else with --exclude-input-in-output
    with UpstreamStream(request.getfixturevalue(name)) as stream:
        for number, length in lengths.items():
            stream.send("tensorrt_llm", benchmark_request(IDS, length), request_id=number)
        results = stream.close()
    assert len(results) == len(lengths)
    read = {number: length - echoed for number, length in map(benchmark_length, results)}
    assert read == lengths


@pytest.mark.parametrize("protocol", [tritonclient.grpc, tritonclient.http])
def test_steps_ensemble_and_bls_agree(replay_server: ServerProcess, protocol: Any) -> None:
    """end_to_end_test.py: the steps by hand, `ensemble` and tensorrt_llm_bls give one text."""
    words = {"BAD_WORDS_DICT": text(""), "STOP_WORDS_DICT": text("")}
    request = {"QUERY": text(TEXT), "REQUEST_OUTPUT_LEN": int32(30), **words}
    prepared = infer(replay_server, "preprocessing", request)
    passed_on = {
        "input_ids": "INPUT_ID",
        "decoder_input_ids": "DECODER_INPUT_ID",
        "input_lengths": "REQUEST_INPUT_LEN",
        "request_output_len": "REQUEST_OUTPUT_LEN",
        "end_id": "OUT_END_ID",
        "pad_id": "OUT_PAD_ID",
    }
    arrays = {name: prepared.as_numpy(source) for name, source in passed_on.items()}
    (generated,) = answers(replay_server, "tensorrt_llm", arrays)
    tokens = {
        "TOKENS_BATCH": generated.as_numpy("output_ids").astype(np.int32),
        "SEQUENCE_LENGTH": generated.as_numpy("sequence_length"),
    }
    by_hand = infer(replay_server, "postprocessing", tokens).as_numpy("OUTPUT")
    request = {
        "text_input": text(TEXT),
        "max_tokens": int32(30),
        "bad_words": text(""),
        "stop_words": text(""),
    }
    (whole,) = answers(replay_server, "ensemble", request, outputs=["text_output"])
    bls = plain_infer(replay_server, protocol, request, binary=True)
    assert by_hand == whole.as_numpy("text_output") == bls.as_numpy("text_output")


@pytest.mark.parametrize(
    ("protocol", "binary"),
    [(tritonclient.grpc, True), (tritonclient.http, True), (tritonclient.http, False)],
)
def test_kserve_infer(
    replay_server: ServerProcess, replay_client: Client, protocol: Any, binary: bool
) -> None:
    """Any KServe v2 client on tensorrt_llm_bls: gRPC, HTTP with binary tensors, HTTP with JSON."""
    request = {"text_input": text(TEXT), "max_tokens": int32(9)}
    result = plain_infer(replay_server, protocol, request, binary)
    answer = result.as_numpy("text_output")[0]
    expected = replay_client.generate(TEXT, max_tokens=9)
    assert (answer if isinstance(answer, str) else answer.decode()) == expected


# --- the steps from a BLS of one's own ---


def test_own_bls_accumulates_tokens(replay_server: ServerProcess, replay_client: Client) -> None:
    """lib/triton_decoder.py with accumulate_tokens: the tokens so far are decoded each time."""
    query = {"QUERY": text(TEXT), "REQUEST_OUTPUT_LEN": int32(40)}
    prepared = decoder_prepared(replay_server, query)
    assert prepared["bad_words_list"].shape[:2] == prepared["stop_words_list"].shape[:2] == (1, 2)
    assert prepared["embedding_bias"].shape == (1, 0)
    options = {"request_output_len": int32(40), "streaming": flag(True)}
    so_far = np.empty((1, 1, 0), np.int32)
    for result in decoder_generated(replay_server, prepared, **options):
        so_far = np.concatenate((so_far, result.as_numpy("output_ids")), axis=2)
        length = int32(so_far.shape[2])
        said = decoder_text(replay_server, so_far, length)
    assert said.decode() == replay_client.generate(TEXT, max_tokens=40)


def test_own_bls_passes_stop_words_on(replay_server: ServerProcess) -> None:
    """lib/triton_decoder.py unstreamed: words as ids from one step to the next."""
    query = {"QUERY": text("abc def"), "REQUEST_OUTPUT_LEN": int32(40)}
    prepared = decoder_prepared(replay_server, query | {"STOP_WORDS_DICT": text(" def")})
    more = {"request_output_len": int32(40), "exclude_input_in_output": flag(True)}
    (result,) = decoder_generated(replay_server, prepared, **more)
    tokens, lengths = result.as_numpy("output_ids"), result.as_numpy("sequence_length")
    assert decoder_text(replay_server, tokens, lengths) == b"abc def"  # upstream's keeps it, too


@pytest.mark.parametrize("name", ["replay_server", "echoing_server"])
def test_own_bls_learns_of_the_echo(name: str, request: pytest.FixtureRequest) -> None:
    """lib/triton_decoder.py reads the default of exclude_input_in_output in the configuration."""
    server: ServerProcess = request.getfixturevalue(name)
    with tritonclient.grpc.InferenceServerClient(server.ports.url("grpc")) as client:
        parameters = client.get_model_config("tensorrt_llm").config.parameters
    excluded = parameters["exclude_input_in_output"].string_value == "true"
    (result,) = answers(server, "tensorrt_llm", benchmark_request(IDS, 3), request_id="1")
    assert benchmark_length(result) == ("1", 3 if excluded else len(IDS) + 3)
    assert excluded == (name == "replay_server")


def test_speculative_client_gets_all_lists(replay_server: ServerProcess) -> None:
    """e2e_grpc_speculative_decoding_client.py: ids of words are read where there are none, too."""
    lists = speculative_lists(replay_server, "Hello")
    assert lists["BAD_WORDS_IDS"].shape[:2] == lists["STOP_WORDS_IDS"].shape[:2] == (1, 2)
    assert lists["INPUT_ID"].shape[0] == lists["OUT_END_ID"].size == lists["OUT_PAD_ID"].size == 1


# --- inflight_batcher_llm/client/end_to_end_grpc_client.py ---


@pytest.mark.parametrize("streaming", [True, False])
def test_text_client(replay_server: ServerProcess, replay_client: Client, streaming: bool) -> None:
    """end_to_end_grpc_client.py --check-outputs: the prompt comes back only where not streamed."""
    request = end_to_end_request(TEXT, 20, streaming)
    results = answers(replay_server, "ensemble", request, outputs=["text_output"])
    answer = replay_client.generate(TEXT, max_tokens=20)
    assert end_to_end_texts(results, streaming) == {(0, 0): answer if streaming else TEXT + answer}


@pytest.mark.parametrize("streaming", [True, False])
def test_text_client_on_bls(
    replay_server: ServerProcess, replay_client: Client, streaming: bool
) -> None:
    """end_to_end_grpc_client.py --model-name tensorrt_llm_bls: a stream of one response."""
    request = end_to_end_request(TEXT, 20, streaming)
    results = answers(replay_server, "tensorrt_llm_bls", request, outputs=["text_output"])
    answer = replay_client.generate(TEXT, max_tokens=20)
    assert end_to_end_texts(results, streaming) == {(0, 0): answer if streaming else TEXT + answer}


@pytest.mark.parametrize("streaming", [True, False])
def test_text_client_sends_a_batch(
    replay_server: ServerProcess, replay_client: Client, streaming: bool
) -> None:
    """end_to_end_grpc_client.py --batch-inputs -n 2: rows told by two indices."""
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
        alone = [replay_client.generate(prompt, max_tokens=5) for prompt in prompts]
    else:
        alone = [prompt + replay_client.generate(prompt, max_tokens=5) for prompt in prompts]
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
    # genai-perf gives these one value each, and no other input any: all others are optional.
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
    expected = replay_client.generate(TEXT, max_tokens=12)
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
    expected = replay_client.generate(question, max_tokens=20, stop_words=stops)
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
