"""A gateway before a test's server, and plain HTTP calls of it."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
from serving.child_server import ServerProcess, free_ports
from serving.processes import end_with_parent

from tests.support.paths import ROOT
from tests.support.processes import eventually

CALL_S = 60.0
MODEL = "ensemble"


@dataclass(frozen=True)
class Gateway:
    """A running `llama-fp4 gateway`."""

    port: int
    process: subprocess.Popen[bytes]
    log_file: Path
    scheme: str = "http"

    @property
    def url(self) -> str:
        return f"{self.scheme}://127.0.0.1:{self.port}"

    def log(self) -> str:
        return self.log_file.read_text(encoding="utf-8", errors="replace")

    def stop(self) -> int:
        """Its exit code, which must be 0 after a SIGTERM."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        return self.process.wait(CALL_S)


def start_gateway(url: str, folder: Path, *flags: str, metrics: str = "", port: int = 0) -> Gateway:
    """A gateway whose server is at `url`, on a free port unless one is given; it listens."""
    port = port or free_ports().http
    command = [sys.executable, "-m", "llama_fp4", "gateway", "--url", url, "--port", str(port)]
    command += ["--metrics-url", f"http://{metrics}/metrics"] if metrics else []
    log_file = folder / f"gateway-{port}.log"
    with log_file.open("wb") as log:
        process = subprocess.Popen(
            [*command, *flags],
            stdout=log,
            stderr=log,
            env={**os.environ, "PYTHONPATH": str(ROOT / "client")},
            preexec_fn=end_with_parent,
        )
    scheme = "https" if "--certificate" in flags else "http"
    gateway = Gateway(port, process, log_file, scheme)
    eventually(lambda: _listens(gateway), "the gateway listens")
    return gateway


@contextlib.contextmanager
def gateway_before(url: str, folder: Path, *flags: str, metrics: str = "") -> Iterator[Gateway]:
    """As `start_gateway`; it must leave no traceback and end with 0."""
    gateway = start_gateway(url, folder, *flags, metrics=metrics)
    try:
        yield gateway
    finally:
        code = gateway.stop()
    assert "Traceback" not in gateway.log()
    assert code == 0, gateway.log()


def gateway_of(server: ServerProcess, folder: Path, *flags: str) -> Any:
    """As `gateway_before`, for a test's server."""
    ports = server.ports
    return gateway_before(ports.url("grpc"), folder, *flags, metrics=ports.url("metrics"))


def _listens(gateway: Gateway) -> bool:
    assert gateway.process.poll() is None, gateway.log()
    try:
        socket.create_connection(("127.0.0.1", gateway.port), 5).close()
    except OSError:
        return False
    return True


def post(gateway: Gateway, path: str, body: Any, **headers: str) -> httpx2.Response:
    """The answer to a POST of JSON, or of bytes as they are."""
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    named = {"content-type": "application/json"} | {
        name.replace("_", "-"): value for name, value in headers.items()
    }
    return httpx2.post(f"{gateway.url}{path}", content=data, headers=named, timeout=CALL_S)


def get(gateway: Gateway, path: str, **headers: str) -> httpx2.Response:
    """The answer to a GET."""
    return httpx2.get(f"{gateway.url}{path}", headers=headers, timeout=CALL_S)


def chat(content: str = "Hello", **more: Any) -> dict[str, Any]:
    """The body of a chat."""
    return {"model": MODEL, "messages": [{"role": "user", "content": content}], **more}


def completion(prompt: Any = "Hello", **more: Any) -> dict[str, Any]:
    """The body of a completion."""
    return {"model": MODEL, "prompt": prompt, **more}


def events(text: str) -> list[Any]:
    """The data of each server-sent event: JSON, or "[DONE]"."""
    found = []
    for event in text.split("\n\n")[:-1]:
        (data,) = [line[6:] for line in event.split("\n") if line.startswith("data: ")]
        found.append(data if data == "[DONE]" else json.loads(data))
    return found


def error_of(answer: httpx2.Response) -> dict[str, Any]:
    """The error of an answer, whose form is checked."""
    document = answer.json()
    assert set(document) == {"error"}
    error: dict[str, Any] = document["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert "Traceback" not in error["message"]
    assert "\n" not in error["message"]
    return error
