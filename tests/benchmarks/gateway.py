"""What a streamed chunk costs the gateway's process, beside the raw gRPC stub and LiteLLM's proxy.

The same recorded answer goes to all of them (`playback_server`), faster than they can take it, and
many streams run at once. A proxy's CPU time is that of its process as the kernel counts it;
LiteLLM's proxy stands before the gateway. Rounds alternate, and the least of each is printed.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import socket
import subprocess
import sys
import tempfile
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from host.console import run_script, say
from serving.child_server import ServerProcess, free_ports

from tests.benchmarks.client import STREAMS, _playing, _raw_request
from tests.benchmarks.playback_server import record
from tests.support.deployments import make_deployment
from tests.support.gateway_calls import MODEL, chat, gateway_before
from tests.support.processes import descendants, eventually

TICK_S = 1 / os.sysconf("SC_CLK_TCK")
GOAL = 2.0  # of the raw stub's CPU time
CLIENTS = ("raw aio stub", "AsyncClient")


def main() -> None:
    """No figure makes it fail."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument(
        "--litellm", type=Path, help="the command `litellm` of an environment of its own"
    )
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name, contextlib.ExitStack() as running:
        folder = Path(name)
        url = running.enter_context(_played(folder))
        gateway = running.enter_context(gateway_before(url, folder, "--quiet"))
        ports = {"gateway": (gateway.port, gateway.process.pid)}
        if options.litellm:
            ports["LiteLLM's proxy"] = running.enter_context(
                _litellm(options.litellm, gateway.url, folder)
            )
        costs: dict[str, list[float]] = {name: [] for name in (*CLIENTS, *ports)}
        for number in range(options.rounds + 1):  # the first warms them up
            for client in CLIENTS:
                costs[client].append(_client(client, url))
            for proxy, (port, pid) in ports.items():
                costs[proxy].append(_proxy(port, pid))
            say(f"round {number} of {options.rounds}" if number else "warm-up")
    _report({name: min(found[1:]) for name, found in costs.items()})


@contextlib.contextmanager
def _played(folder: Path) -> Iterator[str]:
    """The URL of a server that plays an answer of the replay engine."""
    repository = make_deployment(folder, "--runtime", "replay")
    answers = [folder / protocol for protocol in ("grpc", "http")]
    with ServerProcess(repository, free_ports(), folder / "server.log") as server:
        record(server.ports.url("grpc"), answers[0], _raw_request())
        answers[1].write_text("\n".join(["7b7d"] * 4), encoding="ascii")  # not asked for
    with _playing(answers) as urls:
        yield urls["grpc"]


@contextlib.contextmanager
def _litellm(command: Path, url: str, folder: Path) -> Iterator[tuple[int, int]]:
    """The port and pid of LiteLLM's proxy before the gateway."""
    port = free_ports().http
    settings = {"model": f"openai/{MODEL}", "api_base": f"{url}/v1", "api_key": "none"}
    config = {"model_list": [{"model_name": MODEL, "litellm_params": settings}]}
    file = folder / "litellm.json"  # JSON is YAML
    file.write_text(json.dumps(config), encoding="utf-8")
    arguments = ["--config", str(file), "--port", str(port), "--host", "127.0.0.1"]
    with (folder / "litellm.log").open("wb") as log:
        local = {**os.environ, "LITELLM_DANGEROUSLY_PERMIT_WEAK_OR_UNSET_MASTER_KEY": "true"}
        command_line = [str(command), *arguments]
        process = subprocess.Popen(command_line, stdout=log, stderr=log, env=local)
    try:
        eventually(lambda: _answers(port), "LiteLLM's proxy answers")
        yield port, process.pid
    finally:
        process.terminate()
        process.wait()


def _answers(port: int) -> bool:
    with contextlib.suppress(OSError):
        return bool(urllib.request.urlopen(f"http://127.0.0.1:{port}/health/liveliness").read())
    return False


def _client(name: str, url: str) -> float:
    command = [sys.executable, "-m", "tests.benchmarks.client", "--only", name, "--url", url]
    output = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    return float(output)


def _proxy(port: int, pid: int) -> float:
    """Microseconds of CPU time for a chunk."""
    before = _cpu_s(pid)
    with ThreadPoolExecutor(STREAMS) as pool:
        chunks = sum(pool.map(_read, [port] * STREAMS))
    return (_cpu_s(pid) - before) / chunks * 1e6


def _read(port: int) -> int:
    """The events of one streamed chat."""
    body = json.dumps(chat(stream=True)).encode()
    head = "POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nConnection: close\r\n"
    head += f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    with socket.create_connection(("127.0.0.1", port)) as connection:
        connection.sendall(head.encode() + body)
        events, last = 0, b""
        while data := connection.recv(1 << 20):
            events += (last + data).count(b"data: {")
            last = data[-6:]
    return events


def _cpu_s(pid: int) -> float:
    """CPU seconds of a process and its children."""
    total = 0
    for each in (pid, *descendants(pid)):
        fields = Path(f"/proc/{each}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
        total += int(fields[11]) + int(fields[12])
    return total * TICK_S


def _report(costs: dict[str, float]) -> None:
    raw = costs[CLIENTS[0]]
    for name, cost in costs.items():
        line = f"{name:<18}{cost:7.1f} us of CPU per streamed chunk"
        if name not in CLIENTS:
            line += f"; {cost / raw:.2f} of the raw aio stub"
        say(line + (f", at most {GOAL:g} is the goal" if name == "gateway" else ""))


if __name__ == "__main__":
    run_script(main)
