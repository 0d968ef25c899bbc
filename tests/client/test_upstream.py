"""The client against upstream's contracts and time limits, on a real tritonserver."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from llama_fp4 import (
    AsyncClient,
    BetweenTokensTimeout,
    Client,
    FirstTokenTimeout,
    RequestTimeout,
    SamplingParams,
    ServerFailed,
    Timeouts,
    TotalTimeout,
    UnknownModel,
    UnknownOption,
)
from serving.child_server import Ports

from tests.support.upstream_server import MODELS, upstream_server

WORDS = "one two three four"
LIMITS = [
    ("pause now", Timeouts(first_token=0.3), FirstTokenTimeout),
    ("one pause now", Timeouts(between_tokens=0.3), BetweenTokensTimeout),
    ("one pause now", Timeouts(total=0.5), TotalTimeout),
]


@pytest.fixture(scope="module")
def upstream(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ports]:
    with upstream_server(tmp_path_factory.mktemp("upstream")) as ports:
        yield ports


def url(ports: Ports, wire: str) -> str:
    return ports.url("grpc") if wire == "grpc" else f"http://{ports.url('http')}"


@pytest.mark.parametrize("wire", ["grpc", "http"])
@pytest.mark.parametrize("model", MODELS)
def test_chunks_hold_only_new_text(upstream: Ports, model: str, wire: str) -> None:
    with Client(url(upstream, wire), model) as client:
        chunks = list(client.stream(WORDS, max_tokens=3))
        texts = [chunk.text for chunk in chunks if chunk.text]
        assert texts == ["one ", "two ", "three "]
        assert [chunk.final for chunk in chunks] == [False] * (len(chunks) - 1) + [True]
        answer = client.generate(WORDS, max_tokens=2)
        assert answer.text == "one two "
        if model == "tensorrt_llm":
            assert chunks[-1].finish_reason == "length"
            assert answer.finish_reason == "length"


@pytest.mark.parametrize("model", MODELS)
def test_async_chunks(upstream: Ports, model: str) -> None:
    async def main() -> list[str]:
        async with AsyncClient(upstream.url("grpc"), model) as client:
            return [chunk.text async for chunk in client.stream(WORDS, max_tokens=3)]

    assert [text for text in asyncio.run(main()) if text] == ["one ", "two ", "three "]


def test_token_counts(upstream: Ports) -> None:
    with Client(upstream.url("grpc")) as client:
        answer = client.generate(WORDS, max_tokens=2)
    assert (answer.num_output_tokens, answer.num_input_tokens) == (1, 7)


@pytest.mark.parametrize("option", ["min_p", "repetition_penalty", "guided_decoding_guide"])
def test_an_option_without_an_input_is_refused_by_name(upstream: Ports, option: str) -> None:
    value: Any = "x" if option == "guided_decoding_guide" else 0.5
    with Client(upstream.url("grpc"), "tensorrt_llm") as client:
        with pytest.raises(
            UnknownOption, match=f"{option} is not an input of the model tensorrt_llm"
        ):
            client.stream(WORDS, SamplingParams(**{option: value}))
        with pytest.raises(UnknownOption, match="messages is not an input"):
            client.chat([{"role": "user", "content": "Hi"}])


def test_the_servers_errors_have_a_class_and_an_id(upstream: Ports) -> None:
    with Client(upstream.url("grpc")) as client:
        with pytest.raises(ServerFailed, match="the engine is broken") as caught:
            client.generate("fail now", request_id="mine")
        assert caught.value.request_id == "mine"
    with (
        Client(upstream.url("grpc"), "nothing") as client,
        pytest.raises(UnknownModel, match="nothing"),
    ):
        client.generate("Hello")


@pytest.mark.parametrize("wire", ["grpc", "http"])
@pytest.mark.parametrize(("prompt", "limits", "kind"), LIMITS)
def test_limits(
    upstream: Ports, wire: str, prompt: str, limits: Timeouts, kind: type[RequestTimeout]
) -> None:
    with Client(url(upstream, wire)) as client:
        with pytest.raises(kind) as caught:
            list(client.stream(prompt, timeouts=limits))
        assert type(caught.value) is kind
        assert client.generate(WORDS, max_tokens=1).text == "one "
    assert "llama-fp4" not in {thread.name for thread in threading.enumerate()}


@pytest.mark.parametrize("wire", ["grpc", "http"])
@pytest.mark.parametrize(("prompt", "limits", "kind"), LIMITS)
def test_limits_async(
    upstream: Ports, wire: str, prompt: str, limits: Timeouts, kind: type[RequestTimeout]
) -> None:
    async def main() -> None:
        async with AsyncClient(url(upstream, wire)) as client:
            with pytest.raises(kind) as caught:
                async for _ in client.stream(prompt, timeouts=limits):
                    pass
            assert type(caught.value) is kind
            assert (await client.generate(WORDS, max_tokens=1)).text == "one "
        assert asyncio.all_tasks() == {asyncio.current_task()}

    asyncio.run(main())
