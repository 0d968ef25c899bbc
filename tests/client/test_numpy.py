"""NumPy's values count as Python's own in options, settings, messages and calls."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from llama_fp4 import (
    AsyncClient,
    Client,
    ConnectError,
    FunctionTransport,
    InvalidRequest,
    Keepalive,
    Retries,
    SamplingParams,
    Timeouts,
)
from llama_fp4.model_contract import Request
from llama_fp4.sampling import FLAGS, INTEGERS, NUMBERS
from llama_fp4.transports.base import METADATA
from llama_fp4.transports.grpc_messages import infer_request
from llama_fp4.transports.http_messages import generate

from tests.support.cli_calls import environment
from tests.support.client_chunks import three

INTS = [np.int8, np.uint8, np.int32, np.int64, np.uint64, np.array]
FLOATS = [np.float16, np.float32, np.float64, np.longdouble, np.array, Fraction]


def is_own(value: Any) -> bool:
    return type(value) in (bool, int, float, str)


@pytest.mark.parametrize("kind", INTS)
@pytest.mark.parametrize("name", INTEGERS)
def test_integers(name: str, kind: Any) -> None:
    value = getattr(SamplingParams(**{name: kind(4)}), name)
    assert (value, type(value)) == (4, int)


@pytest.mark.parametrize("kind", [*FLOATS, *INTS])
@pytest.mark.parametrize("name", NUMBERS)
def test_numbers(name: str, kind: Any) -> None:
    given = kind(1) if kind in INTS and kind is not np.array else kind(0.5)
    value = getattr(SamplingParams(**{name: given}), name)
    assert value == float(given)
    assert is_own(value)


@pytest.mark.parametrize("value", [True, False])
@pytest.mark.parametrize("name", FLAGS)
def test_flags(name: str, value: bool) -> None:
    given: dict[str, Any] = {name: np.bool_(value)}
    assert getattr(SamplingParams(**given), name) is value


def test_texts_and_lists() -> None:
    params = SamplingParams(
        stop_words=np.array(["a", "b"]),  # type: ignore[arg-type]
        bad_words=[np.str_("c")],
        embedding_bias_words=["d", "e"],
        embedding_bias_weights=np.array([0.5, -1], np.float32),  # type: ignore[arg-type]
        guided_decoding_guide_type=np.str_("json_schema"),
        guided_decoding_guide={"maxLength": np.int64(5), "x": [np.float32(0.5), np.bool_(True)]},
    )
    given = params.given()
    assert (given["stop_words"], given["bad_words"]) == (["a", "b"], ["c"])
    assert given["embedding_bias_weights"] == [0.5, -1.0]
    assert all(is_own(value) for values in given.values() for value in values)
    (guide,) = given["guided_decoding_guide"]
    assert json.loads(guide) == {"maxLength": 5, "x": [0.5, True]}
    labels: Any = np.array(["é", '"'])
    for choices in (labels, list(labels), ["é", '"'], ("é", '"')):
        params = SamplingParams(guided_decoding_guide_type="choice", guided_decoding_guide=choices)
        (guide,) = params.given()["guided_decoding_guide"]
        assert json.loads(guide) == ["é", '"']


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"max_tokens": np.float64(4.5)}, "max_tokens must be an integer of at least 1, not 4.5"),
        ({"max_tokens": np.float64(4.0)}, "max_tokens must be an integer of at least 1, not 4.0"),
        ({"max_tokens": np.bool_(True)}, "max_tokens must be an integer of at least 1, not True"),
        ({"max_tokens": np.int64(0)}, "max_tokens must be an integer of at least 1, not 0"),
        ({"max_tokens": np.array([4])}, "max_tokens must be an integer"),
        ({"max_tokens": np.str_("4")}, "max_tokens must be an integer of at least 1, not '4'"),
        ({"temperature": np.float32("nan")}, "temperature must be a finite number .* not nan"),
        ({"temperature": np.float64("inf")}, "not inf"),
        ({"temperature": np.bool_(True)}, "not True"),
        ({"temperature": np.complex64(1)}, r"not \(1\+0j\)"),
        ({"ignore_eos": np.int64(1)}, "ignore_eos must be True or False, not 1"),
        ({"stop_words": np.array([["a"]])}, "stop_words must be a list of strings"),
        ({"stop_words": np.array([1])}, "each of stop_words must be a string, not 1"),
        (
            {"embedding_bias_words": ["a"], "embedding_bias_weights": np.array([np.nan])},
            "embedding_bias_weights must be a finite number, not nan",
        ),
        ({"tools": [{"x": np.float64("nan")}]}, "tools must be what JSON can hold"),
    ],
)
def test_wrong_values_are_refused(options: dict[str, Any], words: str) -> None:
    with pytest.raises(InvalidRequest, match=words):
        SamplingParams(**options)


def test_settings() -> None:
    timeouts = Timeouts(np.float32(5), np.int64(4), np.float64(0.5), np.array(9.0))  # type: ignore[arg-type]
    assert (timeouts.connect, timeouts.total) == (5.0, 9.0)
    retries = Retries(np.int64(3), np.float32(0.5), np.int32(2))  # type: ignore[arg-type]
    assert (retries.attempts, type(retries.attempts)) == (3, int)
    keepalive = Keepalive(np.int64(2), np.float32(1.5))  # type: ignore[arg-type]
    values = [timeouts.connect, timeouts.first_token, retries.pause, keepalive.every_s]
    assert all(map(is_own, values))
    for make in (
        lambda: Timeouts(total=np.float32("nan")),  # type: ignore[arg-type]
        lambda: Timeouts(total=np.bool_(True)),  # type: ignore[arg-type]
        lambda: Retries(attempts=np.float64(2.0)),  # type: ignore[arg-type]
        lambda: Keepalive(timeout_s=np.int64(0)),  # type: ignore[arg-type]
    ):
        with pytest.raises(InvalidRequest, match="must be"):
            make()


@pytest.mark.parametrize("url", ["127.0.0.1:9", "http://127.0.0.1:9"])
def test_limits_of_calls(url: str) -> None:
    """Nobody listens there; a wrong limit would raise first."""
    right: list[Any] = [np.float32(2), np.int64(2), np.array(2.0)]
    wrongs: list[Any] = [np.float32("nan"), np.int64(0), np.bool_(True), -1.0]
    with Client(url) as client:
        for seconds in right:
            for ask in (client.health, client.server, client.models, client.metadata):
                with pytest.raises(ConnectError):
                    ask(seconds)
            assert not client.is_ready(seconds)
        for wrong in wrongs:
            for call in (client.is_ready, client.statistics):
                with pytest.raises(InvalidRequest, match="timeout_s must be seconds above 0"):
                    call(wrong)


def test_limits_of_async_calls() -> None:
    async def main() -> None:
        async with AsyncClient("http://127.0.0.1:9") as client:
            assert not await client.is_ready(np.float32(2))  # type: ignore[arg-type]
            with pytest.raises(ConnectError):
                await client.health(np.float32(2))  # type: ignore[arg-type]
            with pytest.raises(InvalidRequest, match="timeout_s must be seconds above 0"):
                await client.is_ready(np.bool_(True))  # type: ignore[arg-type]

    asyncio.run(main())


def test_both_protocols_send_pythons_values() -> None:
    """Options, messages and `stream` are all NumPy's."""
    transport = FunctionTransport(three)
    options: dict[str, Any] = {
        "max_tokens": np.int32(4),
        "temperature": np.float32(0.5),
        "seed": np.uint64(7),
        "ignore_eos": np.bool_(True),
        "stop_words": np.array(["x"]),
    }
    messages = [{"role": np.str_("user"), "content": "Hi", "n": np.int64(2)}]
    with Client(transport=transport) as client:
        client.stream(
            messages,
            request_id=np.str_("mine"),
            stream=np.bool_(True),  # type: ignore[arg-type]
            timeouts=Timeouts(total=np.float32(9)),  # type: ignore[arg-type]
            **options,
        )
    (request,) = transport.requests
    body = json.loads(generate(request))
    expected = {"max_tokens": 4, "temperature": 0.5, "seed": 7, "ignore_eos": True}
    assert body.items() >= {**expected, "stop_words": "x", "stream": True, "id": "mine"}.items()
    assert json.loads(body["messages"]) == [{"role": "user", "content": "Hi", "n": 2}]
    assert infer_request(request) == infer_request(same_request(body))


def same_request(body: dict[str, Any]) -> Request:
    """The same request, made of Python's own values."""
    transport = FunctionTransport(three, METADATA)
    names = ("max_tokens", "temperature", "seed", "ignore_eos")
    with Client(transport=transport) as client:
        client.stream(
            json.loads(body["messages"]),
            request_id="mine",
            stop_words=["x"],
            **{name: body[name] for name in names},
        )
    return transport.requests[0]


def test_numpy_is_not_imported() -> None:
    script = (
        "import sys; from llama_fp4 import SamplingParams, Timeouts; "
        "SamplingParams(max_tokens=4, temperature=0.5); Timeouts(total=1); "
        "print('numpy' in sys.modules)"
    )
    command = [sys.executable, "-c", script]
    done = subprocess.run(command, capture_output=True, text=True, env=environment(), check=True)
    assert done.stdout == "False\n"
