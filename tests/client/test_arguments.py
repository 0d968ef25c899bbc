"""Arguments that are refused before anything is sent; settings and response layouts."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from llama_fp4 import (
    Client,
    FunctionTransport,
    InvalidRequest,
    Keepalive,
    Retries,
    Timeouts,
    UnknownOption,
)
from llama_fp4.settings import Connection
from llama_fp4.transports.grpc_messages import Reader, options
from tritonclient.grpc import service_pb2 as pb

from tests.support.client_chunks import three

NAN = float("nan")


@pytest.mark.parametrize(
    "prompt",
    [None, 5, b"bytes", iter([{}]), [], [None], ["text"], [{}], [{"role": 1}],
     [{"role": "user", "content": b"x"}], [{"role": "user", "content": NAN}]],
)  # fmt: skip
def test_wrong_prompts_are_not_sent(prompt: Any) -> None:
    transport = FunctionTransport(three)
    with (
        Client(transport=transport) as client,
        pytest.raises(InvalidRequest, match=r"must "),
    ):
        client.generate(prompt)
    assert transport.requests == []


@pytest.mark.parametrize("request_id", [5, b"id", "two\nlines", "\ud800"])
def test_wrong_request_ids(request_id: Any) -> None:
    client = Client(transport=FunctionTransport(three))
    with client, pytest.raises(InvalidRequest, match="request_id must be"):
        client.stream("Hi", request_id=request_id)


@pytest.mark.parametrize(
    "make",
    [
        lambda: Timeouts(total=NAN),
        lambda: Timeouts(total=float("inf")),
        lambda: Timeouts(connect="5"),  # type: ignore[arg-type]
        lambda: Timeouts(first_token=True),
        lambda: Retries(pause="1"),  # type: ignore[arg-type]
        lambda: Retries(attempts=1.5),  # type: ignore[arg-type]
        lambda: Keepalive(every_s=0),
        lambda: Keepalive(every_s=NAN),
        lambda: Keepalive(timeout_s=-1),
        lambda: Client("h:99999"),
        lambda: Client("::1:8001"),
        lambda: Client("http://a b:1"),
        lambda: Client("http://user@h:1"),
        lambda: Client(None),  # type: ignore[arg-type]
        lambda: Client("h:1", headers={"a b": "c"}),
        lambda: Client("h:1", headers={"a": "b\nc"}),
        lambda: Client("h:1", headers={"a": "é"}),
        lambda: Client("h:1", headers={"a-bin": "x"}),
        lambda: Client("h:1", headers={"a": None}),  # type: ignore[dict-item]
    ],
)
def test_wrong_settings_are_named(make: Callable[[], Any]) -> None:
    with pytest.raises(InvalidRequest, match="must "):
        make()


def test_the_pause_of_a_late_attempt_is_finite() -> None:
    assert 0.0 <= Retries(attempts=5000).seconds_before(5000) <= 5.0


@pytest.mark.parametrize("name", ["num_return_sequences", "n", "best_of"])
def test_options_for_several_answers_are_refused_by_name(name: str) -> None:
    several: dict[str, Any] = {name: 2}
    with (
        Client(transport=FunctionTransport(three)) as client,
        pytest.raises(UnknownOption, match=r"infer\(\) or HTTP generate of tensorrt_llm_bls"),
    ):
        client.generate("Hi", **several)


@pytest.mark.parametrize("params", [{"max_tokens": 2}, 4, "max_tokens=2"])
def test_params_of_another_type_are_refused(params: Any) -> None:
    with (
        Client(transport=FunctionTransport(three)) as client,
        pytest.raises(InvalidRequest, match=r"params must be a SamplingParams .*, not "),
    ):
        client.generate("Hi", params)


def response(**outputs: bytes) -> Any:
    message = pb.ModelInferResponse()
    for name, value in outputs.items():
        message.outputs.add(name=name, datatype="BYTES", shape=[1])
        message.raw_output_contents.append(len(value).to_bytes(4, "little") + value)
    return message


def test_outputs_in_another_order() -> None:
    reader = Reader(cumulative=False)
    first = reader.read(response(text_output=b"a", finish_reason=b"stop"))
    second = reader.read(response(stop_reason=b"x", text_output=b"b"))
    assert (first.text, second.text) == ("a", "b")


def test_keepalive_sets_the_channel_arguments() -> None:
    """Python cannot see gRPC's pings, only the channel arguments that ask for them."""
    told = dict(options(Connection("h:1", keepalive=Keepalive(every_s=1.5, timeout_s=0.25))))
    assert told["grpc.keepalive_time_ms"] == 1500
    assert told["grpc.keepalive_timeout_ms"] == 250
    assert "grpc.keepalive_time_ms" not in dict(options(Connection("h:1")))
