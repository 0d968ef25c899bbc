"""Clients that were written for upstream's ensemble, as they stand, against the real server.

The clients are retold in upstream_token_clients.py and upstream_text_clients.py.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc
import tritonclient.http
from llama_fp4 import Client
from serving.child_server import ServerProcess
from tritonclient.utils import InferenceServerException

from tests.conftest import MakeRepository, serving
from tests.support.upstream_calls import (
    UpstreamStream,
    answers,
    flag,
    infer,
    int32,
    is_final,
    plain_infer,
    text,
)
from tests.support.upstream_token_clients import (
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
    yield from serving(repository, tmp_path_factory.mktemp("echoing"))


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
    expected = replay_client.generate(TEXT, max_tokens=9).text
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
    assert said.decode() == replay_client.generate(TEXT, max_tokens=40).text


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
