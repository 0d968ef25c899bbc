"""Send seeded malformed requests to every entry of a real server, and check each answer.

A request depends only on a seed, its number and the committed config.pbtxt files, so new tensors
are fuzzed without more code. A failed request can be repeated, on a new server or a given one:

    .venv/bin/python -m tests.fuzzing --seed 1 --index 17 --url HOST:GRPC --http-url HOST:HTTP
"""

from __future__ import annotations

import argparse
import itertools
import math
import random
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from serving.child_server import Ports, ServerProcess, free_ports
from tritonclient.grpc import service_pb2

from tests.fuzzing.cases import make_case
from tests.fuzzing.drafts import Case
from tests.fuzzing.lane import Lane
from tests.fuzzing.oracle import faults
from tests.fuzzing.run import Run
from tests.support.deployments import make_deployment
from tests.support.processes import server_memory_mib


def serve_own(runtime: str, folder: Path) -> ServerProcess:
    """A server of the demo checkpoint, started."""
    precision = ("--precision", "f32") if runtime == "openvino" else ()
    repository = make_deployment(folder, "--runtime", runtime, *precision)
    server = ServerProcess(repository, free_ports(), folder / "server.log")
    server.start()
    return server


def main() -> int:
    """The command line; the exit code is 1 if any answer was wrong."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(10**6))
    parser.add_argument("--index", type=int, default=0, help="number of the first case")
    parser.add_argument("--count", type=int, default=1, help="how many cases")
    parser.add_argument("--seconds", type=float, default=math.inf, help="stop after these")
    parser.add_argument("--lanes", type=int, default=4, help="connections at once")
    parser.add_argument("--leaving", action="store_true", help="clients leave before the answer")
    parser.add_argument("--runtime", default="replay", choices=["replay", "openvino"])
    parser.add_argument("--url", help="HOST:PORT of a server's gRPC; by default one is started")
    parser.add_argument("--http-url", default="127.0.0.1:8000", help="HOST:PORT of its HTTP")
    options = parser.parse_args()
    if options.url:
        host, port = options.url.rsplit(":", 1)
        http_port = int(options.http_url.rsplit(":", 1)[1])
        return int(run_and_print(Ports(host, http_port, int(port)), options))
    with tempfile.TemporaryDirectory() as folder:
        server = serve_own(options.runtime, Path(folder))
        try:
            before = server_memory_mib(server)
            wrong = run_and_print(server.ports, options)
            print(f"memory: {before:.0f} MiB before, {server_memory_mib(server):.0f} MiB after")
        finally:
            code = server.stop()
        print(f"the server ended with exit code {code}")
    return 1 if wrong or code else 0


def run_and_print(ports: Ports, options: argparse.Namespace) -> bool:
    """One run, with its table, or one case with its answer; returns whether anything was wrong."""
    if options.count == 1:
        return ask_and_print(ports, make_case(options.seed, options.index, options.leaving))
    start = time.monotonic()
    run = Run(ports, options.seed, options.lanes, options.leaving)
    last = options.index + options.count
    run.ask(
        itertools.takewhile(
            lambda _: time.monotonic() - start < options.seconds, range(options.index, last)
        ),
        canary_every=1000,
    )
    print(run.table())
    asked, seconds = sum(run.codes.values()), time.monotonic() - start
    print(f"seed {options.seed}: {asked} requests, {run.malformed} malformed, {seconds:.0f} s")
    print("\n".join(run.faults) or "nothing was wrong")
    return bool(run.faults)


def ask_and_print(ports: Ports, case: Case) -> bool:
    """One request and its answer, in full."""
    lane = Lane(ports.url("grpc"), ports.url("http"))
    outcome = lane.ask(case)
    lane.close()
    said: Any = case.payload
    if not case.entry.is_http and "mangled_bytes" not in case.what:
        said = service_pb2.ModelInferRequest.FromString(case.payload)
    print(f"{case}; expected: {case.expect}\n{case.path} {case.headers}\n{said}\n{outcome}")
    found = faults(case, outcome)
    print("\n".join(found) or "nothing is wrong")
    return bool(found)


if __name__ == "__main__":
    sys.exit(main())
