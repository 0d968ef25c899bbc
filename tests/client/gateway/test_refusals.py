"""Wrong requests: the right status, OpenAI's form, and the name of what is wrong."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from typing import Any

import pytest
from llama_fp4 import Client
from serving.child_server import ServerProcess, free_ports

from tests.fuzzing.gateway import check_bodies
from tests.support.gateway_calls import (
    MODEL,
    Gateway,
    chat,
    completion,
    error_of,
    gateway_before,
    gateway_of,
    get,
    post,
)

CHAT, COMPLETION, RESPONSES = "/v1/chat/completions", "/v1/completions", "/v1/responses"
JSON_TEXT = {"format": {"type": "json_object"}}
FUZZED = 300


def ask(**fields: Any) -> dict[str, Any]:
    """The body of a response."""
    return {"model": MODEL, "input": "Hi"} | fields


REFUSED: list[tuple[str, Any, int, str | None]] = [
    (CHAT, b"{", 400, None),
    (CHAT, b"", 400, None),
    (CHAT, b"\xff\xfe", 400, None),
    (CHAT, b"[" * 100_000, 400, None),
    (CHAT, b'{"model":"ensemble","messages":[{"role":"user","content":"\\ud800"}]}', 400, None),
    (CHAT, [], 400, None),
    (CHAT, chat() | {"model": "nope"}, 404, "model"),
    (CHAT, {"model": MODEL}, 400, "messages"),
    (CHAT, chat() | {"messages": []}, 400, "messages"),
    (CHAT, chat() | {"messages": [{"role": "user"}]}, 400, "messages"),
    (CHAT, chat() | {"messages": [{"role": "robot", "content": "x"}]}, 400, "messages"),
    (CHAT, chat(temprature=1), 400, "temprature"),
    (CHAT, chat(temperature="warm"), 400, "temperature"),
    (CHAT, chat(temperature=101), 400, "temperature"),
    (CHAT, chat(top_p=1.5), 400, "top_p"),
    (CHAT, chat(n=0), 400, "n"),
    (CHAT, chat(n=17), 400, "n"),
    (CHAT, chat(n=True), 400, "n"),
    (CHAT, chat(seed=-1), 400, "seed"),
    (CHAT, chat(seed=1.5), 400, "seed"),
    (CHAT, chat(stop=[1]), 400, "stop"),
    (CHAT, chat(stop=["x"] * 17), 400, "stop"),
    (CHAT, chat(max_tokens=0), 400, "max_tokens"),
    (CHAT, chat(max_completion_tokens=0), 400, "max_completion_tokens"),
    (CHAT, chat(max_completion_tokens=99_999), 400, "max_completion_tokens"),
    (CHAT, chat(max_completion_tokens=1, max_tokens=2), 400, "max_tokens"),
    (CHAT, chat(top_logprobs=2), 400, "top_logprobs"),
    (CHAT, chat(logprobs=True, top_logprobs=21), 400, "top_logprobs"),
    (CHAT, chat(response_format={"type": "xml"}), 400, "response_format.type"),
    (
        CHAT,
        chat(response_format={"type": "json_schema"}),
        400,
        "response_format.json_schema.schema",
    ),
    (CHAT, chat(guided_json={}, guided_regex="a", guided_choice=["a"]), 400, "guided_choice"),
    (CHAT, chat(guided_json=""), 400, "guided_json"),
    (CHAT, chat(guided_json=False), 400, "guided_json"),
    (CHAT, chat(guided_json={}, guided_regex=""), 400, "guided_regex"),
    (CHAT, chat(guided_regex=""), 400, "guided_regex"),
    (CHAT, chat(guided_choice=[]), 400, "guided_choice"),
    (CHAT, chat(guided_grammar=""), 400, "guided_grammar"),
    (CHAT, chat(structured_outputs={"choice": []}), 400, "structured_outputs"),
    (CHAT, chat(structured_outputs={"regex": ""}), 400, "structured_outputs"),
    (CHAT, chat(tools=[{"type": "function"}]), 400, "tools[0].function"),
    (CHAT, chat(tools="x"), 400, "tools"),
    (CHAT, chat(tool_choice="required"), 400, "tool_choice"),
    (CHAT, chat(functions=[{}]), 400, "functions"),
    (CHAT, chat(audio={"voice": "x"}), 400, "audio"),
    (CHAT, chat(stream_options={"include": True}), 400, "stream_options.include"),
    (COMPLETION, completion(""), 400, "prompt"),
    (COMPLETION, completion([]), 400, "prompt"),
    (COMPLETION, completion(["x"] * 65), 400, "prompt"),
    (COMPLETION, completion(best_of=2), 400, "best_of"),
    (COMPLETION, completion(suffix="x"), 400, "suffix"),
    (COMPLETION, completion("word " * 3000), 400, "prompt"),
    (RESPONSES, ask(text={"format": {"type": "json_schema"}}), 400, "text.format.schema"),
    (RESPONSES, ask(text=JSON_TEXT, guided_regex="a"), 400, "guided_regex"),
    (RESPONSES, ask(input=[{"role": "robot", "content": "x"}]), 400, "input"),
    ("/tokenize", {}, 400, "prompt"),
    ("/detokenize", {"tokens": [2**40]}, 400, "tokens"),
    ("/detokenize", {"tokens": [2**31 - 1]}, 400, "tokens"),
]


@pytest.mark.parametrize("case", range(len(REFUSED)))
def test_a_wrong_request_is_refused_by_name(gateway: Gateway, case: int) -> None:
    path, body, status, param = REFUSED[case]
    answer = post(gateway, path, body)
    error = error_of(answer)
    assert (answer.status_code, error["param"]) == (status, param), error
    assert error["type"] == "invalid_request_error"
    if isinstance(body, dict) and path == CHAT:
        streamed = post(gateway, path, body | {"stream": True})
        assert (streamed.status_code, error_of(streamed)) == (status, error)


def test_a_sentence_has_the_names_of_the_request(gateway: Gateway) -> None:
    """Not those of the server's inputs."""
    sentences = [
        error_of(post(gateway, path, body))["message"]
        for path, body in (
            (CHAT, chat(max_tokens=1.5)),
            (CHAT, chat() | {"messages": "Hi"}),
            ("/tokenize", {"prompt": ""}),
            ("/tokenize", {"prompt": "Hi", "tools": [{}]}),
            (RESPONSES, ask(text={"format": {"type": "json_schema"}})),
        )
    ]
    assert sentences == [
        "max_tokens must be an integer, not 1.5",
        "messages must be an array, not 'Hi'",
        "prompt is empty and must have at least one character",
        "tools is given with prompt and must come with messages",
        "text.format.schema is missing and must be given",
    ]
    unknown = error_of(post(gateway, "/detokenize", {"tokens": [2**31 - 1]}))["message"]
    assert unknown.startswith("tokens holds 2147483647 and must hold ids from 0 to ")


def test_the_wrong_path_method_and_type(gateway: Gateway) -> None:
    missing, method = get(gateway, "/v1/nope"), get(gateway, CHAT)
    assert (missing.status_code, method.status_code) == (404, 405)
    assert method.headers["allow"] == "POST"
    form = post(gateway, CHAT, b"a=b", content_type="application/x-www-form-urlencoded")
    assert form.status_code == 415
    for answer in (missing, method, form):
        error_of(answer)
    assert error_of(get(gateway, "/v1/models/nope"))["code"] == "model_not_found"


def test_a_large_body(gateway: Gateway) -> None:
    large = json.dumps(chat("x" * 10_000_000)).encode()
    answer = post(gateway, CHAT, large)
    assert answer.status_code == 413
    assert "4194304" in error_of(answer)["message"]
    parts = (large[start : start + 65536] for start in range(0, len(large), 65536))
    assert _chunked(gateway, parts).startswith(b"HTTP/1.1 413")


def _chunked(gateway: Gateway, parts: Iterator[bytes]) -> bytes:
    """The begin of the answer to a body without a length."""
    with socket.create_connection(("127.0.0.1", gateway.port)) as connection:
        head = f"POST {CHAT} HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
        try:
            connection.sendall(head.encode())
            for part in parts:
                connection.sendall(b"%x\r\n%s\r\n" % (len(part), part))
        except OSError:  # it has answered, and reads no more
            pass
        return connection.recv(1 << 16)


def test_a_body_that_does_not_come(replay_server: ServerProcess, tmp_path: Any) -> None:
    with (
        gateway_of(replay_server, tmp_path, "--body-timeout", "1") as gateway,
        socket.create_connection(("127.0.0.1", gateway.port)) as connection,
    ):
        head = f"POST {CHAT} HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n"
        connection.sendall(head.encode() + b"{")
        assert connection.recv(1 << 16).startswith(b"HTTP/1.1 408")


def test_request_ids(gateway: Gateway) -> None:
    answer = post(gateway, CHAT, chat(max_tokens=1), x_request_id="mine-1")
    assert answer.headers["x-request-id"] == "mine-1"
    assert "mine-1" in gateway.log()
    made = [post(gateway, CHAT, chat(max_tokens=1)).headers["x-request-id"] for _ in range(2)]
    assert len(set(made)) == 2
    refused = post(gateway, CHAT, b"{", x_request_id="mine-2")
    assert refused.headers["x-request-id"] == "mine-2"


def test_no_server_behind_it(tmp_path: Any) -> None:
    with gateway_before(f"127.0.0.1:{free_ports().grpc}", tmp_path) as gateway:
        answer = post(gateway, CHAT, chat())
        assert answer.status_code == 503
        assert answer.headers["retry-after"] == "1"
        assert "does not answer" in error_of(answer)["message"]
        assert get(gateway, "/health").status_code == 503
        assert get(gateway, "/v1/health/live").status_code == 200
        assert get(gateway, "/metrics").status_code == 200


def test_fuzzed_bodies(gateway: Gateway, replay_client: Client) -> None:
    """Each is answered with a 4xx in the right form, or served; none with a 5xx."""
    assert check_bodies(gateway, FUZZED, seed=20261130) == []
    assert replay_client.is_ready()
