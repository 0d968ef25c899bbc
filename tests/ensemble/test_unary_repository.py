"""A repository made with --unary: upstream's unary clients on it, and what it refuses.

The clients are retold in upstream_token_clients.py and upstream_text_clients.py; upstream's own
scripts are run by test_upstream_scripts.py.
"""

from __future__ import annotations

import asyncio
import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc
import tritonclient.http
from assemble_repository import assemble
from doctor import repositories
from host.console import BuildError
from llama_fp4 import AsyncClient, Client, InvalidRequest, Timeouts
from reference.served_model import ServedModel
from repository.manifest import MANIFEST, check_manifest
from repository.unary import kind_of
from serving.child_server import ServerProcess
from tritonclient.utils import InferenceServerException

from tests.conftest import MakeRepository, serving
from tests.support.cli_calls import call as command
from tests.support.paths import BUILD
from tests.support.processes import eventually, figure
from tests.support.triton_calls import NAMED, Arrays, infer_inputs, post
from tests.support.upstream_calls import UpstreamStream, flag, infer, int32, plain_infer, text
from tests.support.upstream_text_clients import end_to_end_request
from tests.support.upstream_token_clients import (
    benchmark_request,
    inflight_request,
    inflight_stop,
    inflight_tokens,
)

IDS = [5, 6, 7, 8]  # the replay engine answers with them, from the first one on
TEXT = "Grüße aus 東京 😀! The end."
LONG = 1500  # tokens: 15 seconds
PROTOCOLS = [tritonclient.grpc, tritonclient.http]


@pytest.fixture(scope="module")
def unary_repository(make_repository: MakeRepository) -> Path:
    """100 tokens a second, so that there is time to stop it."""
    folder = make_repository("--runtime", "replay", "--step-seconds", "0.01")
    assemble(folder.with_name("engine"), folder.with_name("unary"), unary=True)
    return folder.with_name("unary")


@pytest.fixture(scope="module")
def unary_server(
    unary_repository: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ServerProcess]:
    yield from serving(unary_repository, tmp_path_factory.mktemp("unary"))


def words(**more: Any) -> Arrays:
    """What end_to_end_test.py sends: bad and stop words are there and empty."""
    return {"bad_words": text(""), "stop_words": text(""), **more}


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_end_to_end_test(unary_server: ServerProcess, protocol: Any) -> None:
    """end_to_end_test.py --test-bls: every call is a unary infer(), all three give one text."""

    def call(model: str, arrays: Arrays, *wanted: str) -> Any:
        return plain_infer(unary_server, protocol, arrays, model=model, wanted=wanted)

    query = {"QUERY": text(TEXT), "REQUEST_OUTPUT_LEN": int32(9)}
    prepared = call(
        "preprocessing", query | {"BAD_WORDS_DICT": text(""), "STOP_WORDS_DICT": text("")}
    )
    passed_on = {
        "input_ids": "INPUT_ID",
        "decoder_input_ids": "DECODER_INPUT_ID",
        "input_lengths": "REQUEST_INPUT_LEN",
        "request_output_len": "REQUEST_OUTPUT_LEN",
        "end_id": "OUT_END_ID",
        "pad_id": "OUT_PAD_ID",
    }
    arrays = {name: prepared.as_numpy(source) for name, source in passed_on.items()}
    generated = call("tensorrt_llm", arrays)
    tokens = {
        "TOKENS_BATCH": generated.as_numpy("output_ids").astype(np.int32),
        "SEQUENCE_LENGTH": generated.as_numpy("sequence_length"),
    }
    by_hand = call("postprocessing", tokens).as_numpy("OUTPUT")
    request = words(text_input=text(TEXT), max_tokens=int32(9))
    whole = call("ensemble", request, "text_output").as_numpy("text_output")
    bls = call("tensorrt_llm_bls", request, "text_output").as_numpy("text_output")
    assert by_hand == whole == bls
    said = whole[0].decode()
    assert said.startswith(TEXT)
    assert len(said) > len(TEXT)


def test_end_to_end_test_measures(unary_server: ServerProcess) -> None:
    """end_to_end_test.py's second half over HTTP: many async_infer() on `ensemble` at once."""
    client = tritonclient.http.InferenceServerClient(
        unary_server.ports.url("http"), concurrency=128
    )
    with client:
        asked = []
        for number in range(24):
            request = words(text_input=text(f"Prompt {number}"), max_tokens=int32(4))
            inputs = [
                tritonclient.http.InferInput(
                    name, array.shape, "INT32" if array.dtype == np.int32 else "BYTES"
                ).set_data_from_numpy(array)
                for name, array in request.items()
            ]
            asked.append(client.async_infer("ensemble", inputs, request_id=str(number)))
        answers = [request.get_result().as_numpy("text_output")[0].decode() for request in asked]
    assert all(said.startswith(f"Prompt {number}") for number, said in enumerate(answers))


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_core_model_benchmark(unary_server: ServerProcess, protocol: Any) -> None:
    """benchmark_core_model.py: unary async_infer() of tensorrt_llm; the prompt is counted."""
    http = protocol is tritonclient.http
    results: SimpleQueue[Any] = SimpleQueue()
    url = unary_server.ports.url("http" if http else "grpc")
    more = {"concurrency": 128} if http else {}
    with protocol.InferenceServerClient(url, **more) as client:
        waiting = []
        for number in range(8):
            inputs = [
                protocol.InferInput(name, array.shape, "INT32").set_data_from_numpy(array)
                for name, array in benchmark_request(IDS, number + 3).items()
            ]
            if http:
                waiting.append(client.async_infer("tensorrt_llm", inputs, request_id=str(number)))
            else:
                client.async_infer(
                    "tensorrt_llm",
                    inputs,
                    callback=lambda result, error: results.put(error or result),
                    request_id=str(number),
                )
        found = [w.get_result() for w in waiting] if http else [results.get() for _ in range(8)]
    lengths = {}
    for result in found:
        response = result.get_response() if http else result.get_response(as_json=True)
        lengths[int(response["id"])] = int(response["outputs"][0]["shape"][2])
    assert lengths == {number: len(IDS) + number + 3 for number in range(8)}


def test_inflight_client_unstreamed(unary_server: ServerProcess) -> None:
    """inflight_batcher_llm_client.py without -S: one async_infer(), the prompt comes back."""
    result = infer(unary_server, "tensorrt_llm", inflight_request(IDS, 6, streaming=False))
    assert inflight_tokens([result], IDS, echoed=True) == {0: [*IDS, 5, 6]}
    excluded = inflight_request(IDS, 6, streaming=False) | {"exclude_input_in_output": flag(True)}
    result = infer(unary_server, "tensorrt_llm", excluded)
    assert inflight_tokens([result], IDS, echoed=False) == {0: [*IDS, 5, 6]}


@pytest.mark.parametrize("by_cancel", [False, True])
def test_inflight_client_stops_unstreamed(unary_server: ServerProcess, by_cancel: bool) -> None:
    """inflight_batcher_llm_client.py --stop-after-ms, by a second request and by cancel()."""
    results: SimpleQueue[Any] = SimpleQueue()
    with tritonclient.grpc.InferenceServerClient(unary_server.ports.url("grpc")) as client:

        def send(arrays: Arrays) -> Any:
            return client.async_infer(
                "tensorrt_llm",
                infer_inputs(arrays),
                request_id="1",
                callback=lambda result, error: results.put(error or result),
                parameters={"Streaming": False},
            )

        call = send(inflight_request(IDS, LONG, streaming=False))
        eventually(lambda: figure(unary_server, "llama_fp4_active_requests") == 1, "it runs")
        if by_cancel:
            call.cancel()
            assert results.get().status() == "StatusCode.CANCELLED"
        else:
            send(inflight_stop())
            found = [results.get(), results.get()]
            (tokens,) = inflight_tokens(found, IDS, echoed=True).values()
            assert len(tokens) < LONG
    eventually(lambda: figure(unary_server, "llama_fp4_active_requests") == 0, "it has ended")


@pytest.mark.parametrize(
    ("protocol", "binary"),
    [(tritonclient.grpc, True), (tritonclient.http, True), (tritonclient.http, False)],
)
def test_any_unary_infer(unary_server: ServerProcess, protocol: Any, binary: bool) -> None:
    """end_to_end_grpc_client.py's tensors too: whatever the wire, `ensemble` answers once."""
    request = end_to_end_request("Hello there", 4, streaming=False)
    if protocol is tritonclient.http and not binary:
        request = {name: request[name] for name in ("text_input", "max_tokens")}
    answer = plain_infer(unary_server, protocol, request, binary, "ensemble")
    (said,) = answer.as_numpy("text_output")
    assert (said if isinstance(said, str) else said.decode()) == "Hello thereHello there"


def test_generate_of_http(unary_server: ServerProcess) -> None:
    """curl: echoed unless told otherwise, and `generate_stream` has one event."""
    body = {"text_input": "Hello there", "max_tokens": 4}
    path = "/v2/models/ensemble/generate"
    said = json.loads(post(unary_server, path, body)[1])["text_output"]
    assert said == "Hello thereHello there"
    status, answer = post(unary_server, path, body | {"exclude_input_in_output": True})
    assert (status, json.loads(answer)["text_output"]) == (200, "Hello there")
    _, events = post(unary_server, f"{path}_stream", body | {"stream": False})
    assert events.count("data:") == 1
    assert "Hello thereHello there" in events


ONE_RESPONSE = "this server's ensemble is unary and gives one response a request"
SEVERAL: list[tuple[Arrays, str]] = [
    ({"stream": flag(True)}, f"stream is true and must be false: {ONE_RESPONSE}"),
    (
        {"num_return_sequences": int32(2)},
        f"num_return_sequences is 2 and must be 1: {ONE_RESPONSE}; "
        "tensorrt_llm_bls answers several in one response",
    ),
    (
        {"text_input": text(["a", "b", "c"]).reshape(3, 1), "max_tokens": int32([[2]] * 3)},
        f"the batch has 3 rows and must have 1: {ONE_RESPONSE}; "
        "tensorrt_llm_bls answers several in one response",
    ),
]


@pytest.mark.parametrize(("more", "sentence"), SEVERAL)
def test_several_responses_are_refused(
    unary_server: ServerProcess, more: Arrays, sentence: str
) -> None:
    """Each is refused by name and at once, with INVALID_ARG, through every entry."""
    request = {"text_input": text("Hello"), "max_tokens": int32(4), **more}
    for protocol, status in zip(PROTOCOLS, ("StatusCode.INVALID_ARGUMENT", "400"), strict=True):
        with pytest.raises(InferenceServerException) as caught:
            plain_infer(unary_server, protocol, request, model="ensemble")
        assert (caught.value.status(), sentence in caught.value.message()) == (status, True)
    with UpstreamStream(unary_server) as stream:
        stream.send("ensemble", request, parameters=NAMED)
        with pytest.raises(InferenceServerException, match=r"\[INVALID_ARG\]") as caught:
            stream.close()
    assert sentence in caught.value.message()


def test_streams_and_sequences_of_token_clients_are_refused(unary_server: ServerProcess) -> None:
    """inflight_batcher_llm_client.py -S and -n 2."""
    for request in (
        inflight_request(IDS, 6, streaming=True),
        inflight_request(IDS, 6, streaming=False) | {"num_return_sequences": int32(2)},
    ):
        with pytest.raises(InferenceServerException, match="must be"):
            infer(unary_server, "tensorrt_llm", request)
    for stream in ("generate", "generate_stream"):
        body = {"text_input": "Hello", "max_tokens": 4, "stream": True}
        _, answer = post(unary_server, f"/v2/models/ensemble/{stream}", body)
        assert "stream is true and must be false" in answer
    body = {"text_input": "Hello", "max_tokens": 4, "beam_width": 2}
    status, answer = post(unary_server, "/v2/models/ensemble/generate", body)
    assert (status, "beam_width is 2" in answer) == (400, True)


def test_bls_packs_rows_and_sequences(unary_server: ServerProcess) -> None:
    """Row by row and sequence by sequence, numbered, in the one response that there is."""
    request = {
        "text_input": text(["abc", "def"]).reshape(2, 1),
        "max_tokens": int32([[2], [2]]),
        "num_return_sequences": int32([[2], [2]]),
        "exclude_input_in_output": flag([[True], [True]]),
        "stream": flag([[True], [True]]),
    }
    wanted = ("text_output", "batch_index", "sequence_index")
    result = plain_infer(unary_server, tritonclient.grpc, request, wanted=wanted)
    found = {name: result.as_numpy(name).reshape(-1).tolist() for name in wanted}
    assert found["batch_index"] == [0, 0, 1, 1]
    assert found["sequence_index"] == [0, 1, 0, 1]
    first, _, third, _ = found["text_output"]
    assert found["text_output"] == [first, first, third, third]
    assert first != third


def test_leaving_bls_ends_it(unary_server: ServerProcess) -> None:
    """Its cancellation goes to a `tensorrt_llm` that is unary too."""
    with tritonclient.grpc.InferenceServerClient(unary_server.ports.url("grpc")) as client:
        request = {"text_input": text("Hello"), "max_tokens": int32(LONG)}
        call = client.async_infer(
            "tensorrt_llm_bls", infer_inputs(request), callback=lambda result, error: None
        )
        eventually(lambda: figure(unary_server, "llama_fp4_active_requests") == 1, "it runs")
        call.cancel()
        eventually(lambda: figure(unary_server, "llama_fp4_active_requests") == 0, "it has ended")


def test_our_client(unary_server: ServerProcess) -> None:
    """Whole answers without the prompt, as everywhere; a stream that is demanded is refused."""
    for url in (unary_server.ports.url("grpc"), f"http://{unary_server.ports.url('http')}"):
        with Client(url) as client:
            assert client.generate("Hello there", max_tokens=4).text == "Hello there"
            echoed = client.generate("Hello there", max_tokens=4, exclude_input_in_output=False)
            assert echoed.text == "Hello thereHello there"
            (chunk,) = client.stream("Hello there", max_tokens=4)
            assert (chunk.text, chunk.final) == ("Hello there", True)
            limits = Timeouts(first_token=60)
            whole = client.generate("Hello there", max_tokens=4, timeouts=limits)
            assert whole.text == "Hello there"
            with pytest.raises(InvalidRequest, match="stream is true and must be false"):
                list(client.stream("Hello there", max_tokens=4, stream=True))


def test_our_async_client(unary_server: ServerProcess) -> None:
    async def ask(url: str) -> None:
        async with AsyncClient(url) as client:
            chunks = [chunk.text async for chunk in client.stream("Hello there", max_tokens=4)]
            assert chunks == ["Hello there"]
            limits = Timeouts(between_tokens=60)
            whole = await client.generate("Hello there", max_tokens=4, timeouts=limits)
            assert whole.text == "Hello there"
            messages = [{"role": "user", "content": "Hello"}]
            with pytest.raises(InvalidRequest, match="stream is true and must be false"):
                [chunk async for chunk in client.chat(messages, max_tokens=4, stream=True)]

    for url in (unary_server.ports.url("grpc"), f"http://{unary_server.ports.url('http')}"):
        asyncio.run(ask(url))


def test_our_commands(unary_server: ServerProcess) -> None:
    """One response by default, and a refusal that names the option for a stream."""
    for url in (unary_server.ports.url("grpc"), f"http://{unary_server.ports.url('http')}"):
        done = command("generate", "--url", url, "--max-tokens", "4", "Hello there")
        assert (done.returncode, done.stdout) == (0, "Hello there\n")
        done = command("generate", "--stream", "--url", url, "--max-tokens", "4", "Hello there")
        assert (done.returncode, done.stdout) == (2, "")
        assert "stream is true and must be false" in done.stderr
        done = command("chat", "--url", url, "--max-tokens", "4", stdin="Hello there\n")
        assert (done.returncode, done.stderr) == (0, "")
        bench = ("--requests", "2", "--max-tokens", "4", "--json")
        done = command("bench", "--url", url, *bench)
        assert (done.returncode, json.loads(done.stdout)["requests"]) == (0, 2)


def test_verify_asks_it(unary_server: ServerProcess) -> None:
    """What verify.py compares: tokens without the prompt, and text."""
    ports = unary_server.ports
    model = ServedModel(ports.host, ports.grpc, ports.metrics, 60.0)
    model.check_ready()
    assert model.tokens(IDS, 6, log_probs=False).tokens == [*IDS, 5, 6]
    assert model.text("Hello there", 4).text == "Hello there"


def test_serve_says_that_the_ensemble_is_unary(unary_server: ServerProcess) -> None:
    assert "the ensemble is unary: one response a request" in unary_server.log()


# --- how it is made ---


def test_the_manifest_names_the_kind(unary_repository: Path) -> None:
    document = json.loads((unary_repository / MANIFEST).read_text(encoding="utf-8"))
    assert document["ensemble"] == kind_of(unary_repository) == "unary"
    check_manifest(unary_repository)
    command = [sys.executable, str(BUILD / "assemble_repository.py"), "--check"]
    done = subprocess.run([*command, str(unary_repository)], capture_output=True, text=True)
    assert done.stdout.endswith("its ensemble is unary\n")


def test_reassembled_without_the_option_it_streams(unary_repository: Path, tmp_path: Path) -> None:
    engine = unary_repository.with_name("engine")
    for unary, kind in ((True, "unary"), (False, "streaming")):
        assemble(engine, tmp_path / "repository", unary)
        assert kind_of(tmp_path / "repository") == kind
        check_manifest(tmp_path / "repository")


def test_the_committed_repository_stays_as_it_is(unary_repository: Path) -> None:
    source = BUILD.parent / "model_repository"
    before = (source / "tensorrt_llm" / "config.pbtxt").read_bytes()
    with pytest.raises(BuildError, match="give another folder with --output"):
        assemble(unary_repository.with_name("engine"), source, unary=True)
    assert (source / "tensorrt_llm" / "config.pbtxt").read_bytes() == before


def test_doctor_names_the_kind(unary_repository: Path, tmp_path: Path) -> None:
    shutil.copytree(unary_repository, tmp_path / "build/out/deployments/replay/repository")
    shutil.copytree(unary_repository.with_name("model_repository"), tmp_path / "model_repository")
    (tmp_path / "build/out/deployments/empty/repository").mkdir(parents=True)
    assert list(repositories(tmp_path)) == [
        ("repository", "model_repository: streaming ensemble, checkpoint on replay"),
        (
            "repository",
            "build/out/deployments/replay/repository: unary ensemble, checkpoint on replay",
        ),
    ]


def test_make_passes_it_on() -> None:
    """`make repository UNARY=1`."""
    command = ["make", "-n", "repository", "PROFILE=demo", "UNARY=1"]
    done = subprocess.run(command, cwd=BUILD.parent, capture_output=True, text=True, check=True)
    assert "build/all.py --profile demo" in done.stdout
    assert "--unary" in done.stdout.split("build/all.py")[1]
