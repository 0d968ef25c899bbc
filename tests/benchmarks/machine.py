"""Measure this machine: start-up, memory, the serving path's cost, and batching.

Every ratio compares two figures of this one run. Absolute figures say little on a busy machine.
`--install` also times `make demo ONCE=1` in a clean clone, with and without pip's cache.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from doctor import machine
from host.console import run_script, say
from llama_fp4 import Client
from serving.child_server import ServerProcess, free_ports
from serving.processes import stubs_of

from tests.benchmarks.engine import bare_tokens_per_second, pipe_microseconds
from tests.support.deployments import make_deployment
from tests.support.paths import ROOT
from tests.support.processes import children, server_memory_mib, triton_of

STREAMS = 16
STORY = [{"role": "user", "content": "Tell me a long story about a train called Grace."}]
CLOCK_TICKS = os.sysconf("SC_CLK_TCK")


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--install", action="store_true", help="also time a clean installation")
    options = parser.parse_args()
    for name, value in machine():
        if name in ("system", "CPU", "memory", "GPU", "tritonserver"):
            say(f"{name:<14}{value}")
    say(f"{'date':<14}{time.strftime('%Y-%m-%d')}\n")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if options.install:
            measure_install(folder)
        demo = make_deployment(folder / "demo", "--runtime", "openvino", "--precision", "f32")
        measure_demo(demo, folder)
        pace = ("--step-seconds", "0.02")
        measure_path(make_deployment(folder / "paced", "--runtime", "replay", *pace), folder)
        fast = make_deployment(folder / "fast", "--runtime", "replay")
        measure_pipe(fast)
        measure_saturation(fast, folder)


def measure_install(folder: Path) -> None:
    """Clean clone to the end of the streamed answer, with empty caches and with full ones."""
    subprocess.run(["git", "clone", "-q", str(ROOT), str(folder / "clone")], check=True)
    caches = {"UV_CACHE_DIR": str(folder / "uv"), "PIP_CACHE_DIR": str(folder / "pip")}
    for label in ("with downloads", "from the caches of pip and uv"):
        subprocess.run(["make", "-s", "clean-venv", "clean"], cwd=folder / "clone", check=True)
        ports = free_ports()
        command = ["make", "-s", "demo", "ONCE=1", f"HTTP_PORT={ports.http}"]
        command += [f"GRPC_PORT={ports.grpc}", f"METRICS_PORT={ports.metrics}"]
        started = time.monotonic()
        environment = {**os.environ, **caches}
        subprocess.run(
            command, cwd=folder / "clone", check=True, env=environment, stdout=subprocess.DEVNULL
        )
        say(f"clean clone to the end of the answer, {label}: {time.monotonic() - started:.1f} s")


def measure_demo(repository: Path, folder: Path) -> None:
    """Start-up, memory, and 16 requests one after the other against 16 at once."""
    for run in range(3):
        started = time.monotonic()
        server = ServerProcess(repository, free_ports(), folder / "server.log")
        with server:
            phases = ", ".join(f"{name} {seconds:.2f} s" for name, seconds in server.phases())
            seconds_to_ready = time.monotonic() - started
            say(f"server start to ready, run {run + 1}: {seconds_to_ready:.1f} s ({phases})")
            if run == 2:
                _measure_batching(server)
                say(f"memory of all processes (PSS): {server_memory_mib(server):.0f} MiB")
    one, many = (bare_tokens_per_second(repository, count) for count in (1, STREAMS))
    say(f"the engine alone, no server: {one:.0f} tokens/s with 1 sequence, {many:.0f} with "
        f"{STREAMS}; ratio {many / one:.2f}\n")  # fmt: skip


def _measure_batching(server: ServerProcess) -> None:
    with Client(server.ports.url("grpc")) as client:
        ask = _asker(client)
        ask(0)
        sequence = _tokens_per_second(lambda: sum(ask(index) for index in range(STREAMS)))
        together = _tokens_per_second(lambda: _at_once(ask))
    say(
        f"{STREAMS} streamed stories one after the other: {sequence:.0f} tokens/s; "
        f"at once: {together:.0f} tokens/s; ratio {together / sequence:.2f}"
    )


def _asker(client: Client) -> Callable[[int], int]:
    def ask(index: int) -> int:
        chunks = client.stream(STORY, max_tokens=256, temperature=0.7)
        return sum(chunk.num_output_tokens for chunk in chunks)

    return ask


def _tokens_per_second(generate: Callable[[], int]) -> float:
    started = time.perf_counter()
    return generate() / (time.perf_counter() - started)


def _at_once(ask: Callable[[int], int]) -> int:
    with ThreadPoolExecutor(STREAMS) as pool:
        return sum(pool.map(ask, range(STREAMS)))


def measure_path(repository: Path, folder: Path) -> None:
    """CPU time of one streamed response in each process, with 16 streams at 50 tokens/s."""
    with ServerProcess(repository, free_ports(), folder / "server.log") as server:
        client = Client(server.ports.url("grpc"))
        client.generate("Hello", max_tokens=2)
        pids = _processes(server)
        before = {name: _cpu_seconds(pid) for name, pid in pids.items()}
        client_before = time.process_time()
        responses = _at_once(
            lambda index: sum(1 for _ in client.stream(f"Hello {index}", max_tokens=200))
        )
        costs = {name: _cpu_seconds(pid) - before[name] for name, pid in pids.items()}
        costs["client"] = time.process_time() - client_before
        client.close()
    cells = ", ".join(f"{name} {cost / responses * 1e6:.0f}" for name, cost in costs.items())
    say(f"CPU microseconds per streamed response ({responses} responses): {cells}\n")


def measure_pipe(repository: Path) -> None:
    """What the engine process costs a token, against stepping the engine in the same process."""
    for count in (1, STREAMS):
        inside, outside = pipe_microseconds(repository, count)
        say(
            f"between the processes, {count} sequences: {outside:.1f} us per token, of which the "
            f"engine's own {inside:.1f} us"
        )


def measure_saturation(repository: Path, folder: Path) -> None:
    """The most that the path carries when the engine costs nothing."""
    responses = [0] * STREAMS
    with ServerProcess(repository, free_ports(), folder / "server.log") as server:
        client = Client(server.ports.url("grpc"))

        def ask(index: int) -> int:
            tokens = 0
            for chunk in client.stream(f"Hello {index}", max_tokens=1500):
                tokens += chunk.num_output_tokens
                responses[index] += 1
            return tokens

        rate = _tokens_per_second(lambda: _at_once(ask))
        client.close()
    say(
        f"saturated by the replay engine, {STREAMS} streams: {rate:.0f} tokens/s, "
        f"{STREAMS * 1500 / sum(responses):.0f} tokens per response"
    )


def _processes(server: ServerProcess) -> dict[str, int]:
    triton = triton_of(server.pid)
    found = {"tritonserver": triton}
    for stub in stubs_of(triton):
        found[stub.model] = stub.pid
        for child in children(stub.pid):
            found["engine process"] = child
    return found


def _cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / CLOCK_TICKS


if __name__ == "__main__":
    run_script(main)
