"""A gateway while it runs: clients that leave, a full queue, keys, the drain, workers, metrics."""

from __future__ import annotations

import json
import os
import signal
import socket
import ssl
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import httpx2
import pytest
from llama_fp4.gateway.api_keys import hashed, new_key
from prometheus_client.parser import text_string_to_metric_families
from serving.child_server import ServerProcess

from tests.support.gateway_calls import (
    CALL_S,
    Gateway,
    chat,
    completion,
    error_of,
    events,
    gateway_of,
    get,
    post,
)
from tests.support.processes import engine_of, eventually, figure, is_alive
from tests.support.tls_servers import certificates

CHAT, COMPLETION = "/v1/chat/completions", "/v1/completions"
ACTIVE = "llama_fp4_active_requests"


@pytest.fixture(scope="module")
def narrow(narrow_server: ServerProcess, tmp_path_factory: pytest.TempPathFactory) -> Any:
    with gateway_of(narrow_server, tmp_path_factory.mktemp("narrow-gateway")) as gateway:
        yield gateway


def send(gateway: Gateway, path: str, body: dict[str, Any]) -> socket.socket:
    """A connection on which the request was sent, and nothing read yet."""
    data = json.dumps(body).encode()
    head = f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
    connection = socket.create_connection(("127.0.0.1", gateway.port), CALL_S)
    connection.sendall(f"{head}Content-Length: {len(data)}\r\n\r\n".encode() + data)
    return connection


def in_flight(server: ServerProcess) -> float:
    """Sequences in the engine and before it, as Triton's metrics say."""
    return figure(server, ACTIVE) + figure(server, "llama_fp4_queued_requests")


@pytest.mark.parametrize("stream", [True, False], ids=["streamed", "whole"])
def test_a_client_that_leaves_cancels(
    narrow: Gateway, narrow_server: ServerProcess, stream: bool
) -> None:
    """The answer would take 15 s; the next one starts as soon as the first is gone."""
    first = send(narrow, CHAT, chat("word " * 5, max_tokens=500, stream=stream))
    eventually(lambda: in_flight(narrow_server) == 1, "the request runs")
    second = send(narrow, COMPLETION, completion("a b c", max_tokens=400, n=3, stream=stream))
    eventually(lambda: in_flight(narrow_server) == 4, "the others wait")
    first.close()
    second.close()
    eventually(lambda: in_flight(narrow_server) == 0, "both are gone")
    answer = post(narrow, COMPLETION, completion("a b", max_tokens=2))
    assert answer.status_code == 200
    assert "499" in narrow.log()


def test_a_full_queue(narrow: Gateway, narrow_server: ServerProcess) -> None:
    """One sequence runs and 64 wait; one more gets 429, streamed or not."""
    body = completion(["x"] * 5, n=13, max_tokens=500, stream=True)
    with send(narrow, COMPLETION, body):
        eventually(lambda: in_flight(narrow_server) == 65, "the queue is full")
        for stream in (False, True):
            answer = post(narrow, COMPLETION, completion("x", max_tokens=1, stream=stream))
            assert answer.status_code == 429, answer.text
            assert answer.headers["retry-after"] == "1"
            assert error_of(answer)["type"] == "rate_limit_error"
    eventually(lambda: in_flight(narrow_server) == 0, "the client has left")
    assert get(narrow, "/health").status_code == 200


def test_the_gateways_own_limits(narrow_server: ServerProcess, tmp_path: Path) -> None:
    flags = ("--max-requests", "1", "--max-tokens", "4", "--served-name", "llama")
    with gateway_of(narrow_server, tmp_path, *flags) as gateway:
        asked = completion("a b c d e f g", model="llama")
        answer = post(gateway, COMPLETION, asked)
        assert answer.json()["usage"]["completion_tokens"] == 4
        assert answer.json()["model"] == "llama"
        long = post(gateway, COMPLETION, asked | {"max_tokens": 5})
        assert error_of(long)["message"] == "max_tokens must be at most 4, not 5"
        assert post(gateway, COMPLETION, completion("x")).status_code == 404
        with send(gateway, COMPLETION, asked | {"n": 16, "stream": True}):
            eventually(lambda: in_flight(narrow_server) > 0, "the first runs")
            busy = post(gateway, COMPLETION, asked)
        assert busy.status_code == 429
        assert "limit" in error_of(busy)["message"]


def test_api_keys(replay_server: ServerProcess, tmp_path: Path) -> None:
    key, file = new_key(), tmp_path / "keys.txt"
    file.write_text(f"# ours\n\n{hashed(key)} first\n", encoding="utf-8")
    with gateway_of(replay_server, tmp_path, "--api-keys", str(file)) as gateway:
        for path in (CHAT, "/v1/responses", "/tokenize"):
            for given in ("", "Bearer nope", f"Basic {key}", "Bearer"):
                answer = post(gateway, path, {}, authorization=given)
                assert answer.status_code == 401
                assert error_of(answer)["code"] == "invalid_api_key"
                assert answer.headers["www-authenticate"] == "Bearer"
        assert get(gateway, "/v1/models").status_code == 401
        right = {"authorization": f"Bearer {key}"}
        assert get(gateway, "/v1/models", **right).status_code == 200
        assert post(gateway, CHAT, chat(max_tokens=1), **right).status_code == 200
        for path in ("/", "/docs", "/health", "/v1/health/live", "/metrics"):
            assert get(gateway, path).status_code in (200, 307), path
        file.write_text(f"{hashed(new_key())} second\n", encoding="utf-8")
        os.utime(file, (1, 1))
        assert get(gateway, "/v1/models", **right).status_code == 401  # revoked
        assert key not in gateway.log()


def test_a_new_key_is_shown_once() -> None:
    command = [sys.executable, "-m", "llama_fp4", "gateway", "--new-key", "me"]
    made = subprocess.run(command, capture_output=True, text=True, check=True)
    key = made.stderr.split()[-1]
    assert made.stdout == f"{hashed(key)} me\n"


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--api-keys", "/nowhere"], "--api-keys must be a readable file"),
        (["--certificate", "/nowhere"], "must be given together"),
        (["--certificate", "/x", "--certificate-key", "/y"], "must be files, not /x"),
        (
            ["--certificate", __file__, "--certificate-key", __file__],
            "must be a certificate in PEM",
        ),
        (["--cors-origin", "https://example.org/"], "must be like https://host:port or *"),
        (["--cors-origin", "example.org"], "must be like https://host:port or *"),
        (["--url", "http://localhost:1"], "--url must be"),
        (["--workers", "0"], "must be an integer"),
        (["--port", "65536"], "must be an integer"),
        (["--host", "192.0.2.1"], "cannot listen on 192.0.2.1:9000"),
        (["--new-key", " "], "--new-key must be"),
    ],
)
def test_wrong_usage(flags: list[str], words: str) -> None:
    command = [sys.executable, "-m", "llama_fp4", "gateway", *flags]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=CALL_S)
    assert ended.returncode == 2
    assert words in ended.stderr.replace("\n", " ")
    assert "Traceback" not in ended.stderr


@pytest.mark.parametrize(("host", "warns"), [("localhost", False), ("0.0.0.0", True)])
def test_who_can_reach_it_without_a_key(host: str, warns: bool) -> None:
    with socket.create_server((host, 0)) as taken:
        port = str(taken.getsockname()[1])
        command = [sys.executable, "-m", "llama_fp4", "gateway", "--host", host, "--port", port]
        ended = subprocess.run(command, capture_output=True, text=True, timeout=CALL_S)
    assert "cannot listen" in ended.stderr
    assert ("others can reach this port" in ended.stderr) is warns


def test_tls(replay_server: ServerProcess, tmp_path: Path) -> None:
    certificates(tmp_path)
    flags = (
        "--certificate",
        f"{tmp_path}/server.pem",
        "--certificate-key",
        f"{tmp_path}/server.key",
    )
    with gateway_of(replay_server, tmp_path, *flags) as gateway:
        context = ssl.create_default_context(cafile=str(tmp_path / "ca.pem"))
        context.check_hostname = False  # it is for a server called `inside`
        url = f"https://localhost:{gateway.port}/v1/models"
        assert httpx2.get(url, verify=context, timeout=CALL_S).status_code == 200


def test_cors_is_off_unless_asked_for(
    gateway: Gateway, replay_server: ServerProcess, tmp_path: Path
) -> None:
    origin = "https://example.org"
    assert "access-control-allow-origin" not in get(gateway, "/v1/models", origin=origin).headers
    with gateway_of(replay_server, tmp_path, "--cors-origin", origin) as allowed:
        found = get(allowed, "/v1/models", origin=origin).headers
        assert found["access-control-allow-origin"] == origin
        other = get(allowed, "/v1/models", origin="https://example.com").headers
        assert "access-control-allow-origin" not in other


def test_the_metrics_are_merged(gateway: Gateway) -> None:
    post(gateway, CHAT, chat(max_tokens=3))
    answer = get(gateway, "/metrics")
    assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
    families = [family.name for family in text_string_to_metric_families(answer.text)]
    assert len(families) == len(set(families))
    for name in (
        "nv_inference_request_success",
        "llama_fp4_engine_info",
        "llama_fp4_gateway_requests",
        "llama_fp4_gateway_completion_tokens",
        "llama_fp4_gateway_time_to_first_token_seconds",
    ):
        assert name in families
    assert get(gateway, "/v1/metrics").status_code == 200


def test_a_drain_lets_streams_end(narrow_server: ServerProcess, tmp_path: Path) -> None:
    """Meanwhile it is not ready and refuses requests; the exit code is 0."""
    with gateway_of(narrow_server, tmp_path) as gateway:
        body = completion("a b c d", max_tokens=60, stream=True)
        found: list[str] = []
        thread = threading.Thread(target=lambda: found.append(post(gateway, COMPLETION, body).text))
        thread.start()
        eventually(lambda: in_flight(narrow_server) == 1, "the stream runs")
        gateway.process.send_signal(signal.SIGTERM)
        eventually(lambda: get(gateway, "/health").status_code == 503, "it is not ready")
        refused = post(gateway, COMPLETION, completion("x"))
        assert refused.status_code == 503
        assert error_of(refused)["code"] == "shutting_down"
        thread.join()
        assert gateway.process.wait(CALL_S) == 0
        data = events(found[0])
        assert data[-1] == "[DONE]"
        assert data[-2]["choices"][0]["finish_reason"] == "length"


def test_workers_share_one_port(replay_server: ServerProcess, tmp_path: Path) -> None:
    with gateway_of(replay_server, tmp_path, "--workers", "2") as gateway:
        eventually(lambda: get(gateway, "/health").status_code == 200, "a worker answers")
        for _ in range(8):
            assert post(gateway, CHAT, chat(max_tokens=1)).status_code == 200
        families = text_string_to_metric_families(get(gateway, "/metrics").text)
        counted = {
            sample.labels.get("path"): sample.value
            for family in families
            for sample in family.samples
            if sample.name == "llama_fp4_gateway_requests_total"
        }
        assert counted[CHAT] == 8
        workers = _workers(gateway)
        assert len(workers) == 2
        os.kill(workers[0], signal.SIGKILL)
        eventually(lambda: "another one starts" in gateway.log(), "the parent has seen it")
        eventually(lambda: len(_workers(gateway)) == 2, "another one has started")
        assert post(gateway, CHAT, chat(max_tokens=1)).status_code == 200
    assert not any(map(is_alive, workers))


def _workers(gateway: Gateway) -> list[int]:
    from tests.support.processes import children, command_line

    found = children(gateway.process.pid)
    return [pid for pid in found if "spawn_main" in command_line(pid)]


def test_an_error_in_mid_stream_is_the_last_event(
    narrow: Gateway, narrow_server: ServerProcess
) -> None:
    body = json.dumps(chat("word " * 5, max_tokens=500, stream=True))
    headers = {"content-type": "application/json"}
    with httpx2.stream(
        "POST", narrow.url + CHAT, content=body, headers=headers, timeout=CALL_S
    ) as answer:
        assert answer.status_code == 200
        parts = answer.iter_text()
        text = next(parts)
        os.kill(engine_of(narrow_server.pid), signal.SIGKILL)
        text += "".join(parts)
    *_, last = events(text)
    assert set(last) == {"error"}
    assert last["error"]["type"] == "service_unavailable_error"
    eventually(
        lambda: post(narrow, COMPLETION, completion("x", max_tokens=1)).status_code == 200,
        "the engine is back",
    )
