"""serve.py with the gateway: started after Triton, drained before it, watched in between."""

from __future__ import annotations

import os
import signal
import threading
from pathlib import Path

import httpx2
import pytest
import serve
from serving.child_server import ServerProcess, free_ports
from serving.gateway_process import GatewayProcess, missing_package

from tests.conftest import MakeRepository
from tests.support.gateway_calls import CALL_S, MODEL, events
from tests.support.processes import Remains, children, command_line, eventually, is_alive

PATH = "/v1/completions"


def gateway_pid(server: ServerProcess) -> int:
    """The gateway's, 0 if there is none."""
    found = [pid for pid in children(server.pid) if "llama_fp4" in command_line(pid)]
    return next((pid for pid in found if "gateway" in command_line(pid)), 0)


def ask(server: ServerProcess, **more: object) -> httpx2.Response:
    url = f"http://{server.ports.url('gateway')}{PATH}"
    body = {"model": MODEL, "prompt": "a b c", "max_tokens": 2, **more}
    return httpx2.post(url, json=body, timeout=CALL_S)


def answers(server: ServerProcess) -> bool:
    try:
        return ask(server).status_code == 200
    except httpx2.TransportError:
        return False


def test_a_gateway_that_dies_is_named_and_started_again(
    make_repository: MakeRepository, tmp_path: Path
) -> None:
    """And a stream through it ends before the server does."""
    repository = make_repository("--runtime", "replay", "--step-seconds", "0.03")
    server = ServerProcess(repository, free_ports(gateway=True), tmp_path / "server.log")
    server.start()
    remains = Remains(server)
    assert ask(server).status_code == 200
    first = gateway_pid(server)
    os.kill(first, signal.SIGKILL)
    eventually(lambda: "the gateway ended with signal 9" in server.log(), "serve.py names it")
    eventually(lambda: answers(server), "another one answers")
    second = gateway_pid(server)
    assert second not in (0, first)
    texts: list[str] = []
    more = {"max_tokens": 60, "stream": True}
    thread = threading.Thread(target=lambda: texts.append(ask(server, **more).text))
    before = server.log().count(f"POST {PATH}")
    thread.start()
    url = f"http://{server.ports.url('gateway')}/metrics"
    active = "llama_fp4_gateway_active_requests 1.0"
    eventually(lambda: active in httpx2.get(url, timeout=CALL_S).text, "the stream runs")
    os.kill(server.pid, signal.SIGTERM)
    thread.join()
    assert server.wait() == 0
    assert events(texts[0])[-1] == "[DONE]"
    assert events(texts[0])[-2]["choices"][0]["finish_reason"] == "length"
    assert server.log().count(f"POST {PATH}") == before + 1
    assert not is_alive(second)
    assert not remains.found()


def test_without_a_gateway(replay_server: ServerProcess) -> None:
    assert replay_server.ports.gateway is None
    assert gateway_pid(replay_server) == 0


def test_its_command_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    options = serve._parse(["--gateway-port", "9100", "--", "--workers", "2"])
    command = serve.gateway_command(options)
    assert command[1:4] == ("-m", "llama_fp4", "gateway")
    assert command[-2:] == ("--workers", "2")
    assert "9100" in command
    assert serve.gateway_command(serve._parse(["--no-gateway"])) == ()
    monkeypatch.setattr(serve, "missing_package", lambda: "uvicorn")
    assert serve.gateway_command(options) == ()
    assert "no gateway: it needs uvicorn" in capsys.readouterr().out
    assert missing_package() == ""
    monkeypatch.setattr("importlib.util.find_spec", lambda name: name != "llama_fp4" or None)
    assert missing_package() == "llama_fp4"


def test_one_that_never_starts_is_tried_less_and_less(capsys: pytest.CaptureFixture[str]) -> None:
    gateway = GatewayProcess(["false"])
    gateway.attend()
    eventually(lambda: not gateway.runs, "it ends")
    gateway.attend()
    assert "the gateway ended with exit code 1; it starts again in 1 s" in capsys.readouterr().err
    gateway.attend()
    assert not gateway.runs  # not yet
    gateway.end()
