"""Run Triton on a model repository until Ctrl-C.

The tritonserver on PATH is used (NVIDIA's container), else the one in the package nvidia-pytriton.
It listens on 127.0.0.1 unless told otherwise, its log is passed through, and its exit code is
returned. SIGINT and SIGTERM let it finish the requests in flight and end the engine; clients that
stay connected do not keep it then. A second signal ends it at once. However it ends, no Python stub
and no shared-memory region stays behind. A start that makes no progress is ended, and tried anew.
"""

from __future__ import annotations

import argparse
import re
import socket
import sys
from dataclasses import dataclass
from pathlib import Path

from host.console import fail, say
from repository.unary import kind_of
from serving.find_triton import TritonInstallation, TritonNotFound, find_triton
from serving.run import Settings, run
from serving.start_stop import UNLOAD_S

ROOT = Path(__file__).resolve().parent.parent
STAGING = ROOT / "build" / "out" / "triton"


@dataclass(frozen=True)
class Options:
    """The command line."""

    model_repository: Path
    host: str  # an IPv4 address
    http_port: int
    grpc_port: int
    metrics_port: int
    exit_timeout: float
    start_timeout: float


def main(arguments: list[str] | None = None) -> int:
    """Serve until told to stop; returns Triton's exit code, or 128 + signal if it was killed.

    0 also where it had to be killed because it waited for nothing but clients.
    """
    options = _parse(arguments)
    check_repository(options.model_repository)
    check_ports(options)
    try:
        triton = find_triton(STAGING)
    except TritonNotFound as error:
        fail(str(error))
    for path in filter(None, (options.model_repository.resolve(), triton.backend_directory)):
        check_path(path)
    if kind_of(options.model_repository) == "unary":
        say("the ensemble is unary: one response a request, 'stream' true is refused")
    settings = Settings(
        command_line(triton, options),
        options.exit_timeout,
        options.start_timeout,
        (options.host, options.http_port),
    )
    return run(triton, settings)


def _parse(arguments: list[str] | None) -> Options:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--model-repository", type=Path, default=ROOT / "model_repository")
    parser.add_argument(
        "--host",
        type=_ipv4_address,
        default="127.0.0.1",
        help="IPv4 address or name to listen on (default %(default)s)",
    )
    parser.add_argument("--http-port", type=_port, default=8000, metavar="N")
    parser.add_argument("--grpc-port", type=_port, default=8001, metavar="N")
    parser.add_argument("--metrics-port", type=_port, default=8002, metavar="N")
    parser.add_argument(
        "--exit-timeout",
        type=int,
        default=30,
        metavar="SECONDS",
        help="how long requests in flight may take to end (default %(default)s)",
    )
    parser.add_argument(
        "--start-timeout",
        type=_positive_seconds,
        default=60,
        metavar="SECONDS",
        help="how long the start of a model may show no progress, the load of the engine not "
        "counted, before Triton is started anew (default %(default)s)",
    )
    return Options(**vars(parser.parse_args(arguments)))


def _ipv4_address(text: str) -> str:
    """Triton's HTTP frontend takes numbers alone, and binds 255.255.255.255 for a name."""
    try:
        found = socket.getaddrinfo(text, None, socket.AF_INET, socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        raise argparse.ArgumentTypeError(
            f"{text!r} is no IPv4 address and no name of one, allowed are those"
        ) from None
    return str(found[0][4][0])


def _port(text: str) -> int:
    port = int(text) if text.isdecimal() else 0
    if not 1 <= port <= 65535:
        raise argparse.ArgumentTypeError(f"{text!r} is no port, allowed is 1 to 65535")
    return port


def _positive_seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds < float("inf"):
        raise argparse.ArgumentTypeError(f"{text!r} is no time, allowed is a number above 0")
    return seconds


def check_repository(repository: Path) -> None:
    """End with one sentence if `repository` has no models or no engine."""
    if not (repository / "ensemble" / "config.pbtxt").is_file():
        fail(
            f"{repository} is no model repository of this project, it has no "
            "ensemble/config.pbtxt; name one with --model-repository"
        )
    engine = repository / "tensorrt_llm" / "1" / "engine" / "engine.json"
    if not engine.is_file():
        fail(f"there is no engine: {engine} does not exist; build one with 'make engine'")


def check_path(path: Path) -> None:
    """End with one sentence if Triton cannot start its Python models from there."""
    unfit = re.search(r"[^\w./+:,@%#=~^\[\]-]", str(path), re.ASCII)
    if unfit:
        fail(
            f"{path} has {unfit[0]!r} in its name, and Triton starts its Python models by a shell "
            "that would misread it; move it to a path with no space, no quote and no letter beyond "
            "ASCII"
        )


def check_ports(options: Options) -> None:
    """End with one sentence if a port is taken: Triton's own message hides in its log."""
    for name in ("http", "grpc", "metrics"):
        port = getattr(options, f"{name}_port")
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((options.host, port))
            except OSError as error:
                fail(
                    f"cannot listen on {options.host}:{port} ({error.strerror}); "
                    f"choose another port with --{name}-port (make: {name.upper()}_PORT=N)"
                )


def command_line(triton: TritonInstallation, options: Options) -> list[str]:
    """Triton's command line for `options`."""
    command = [
        str(triton.binary),
        f"--model-repository={options.model_repository.resolve()}",
        "--model-control-mode=none",
        "--disable-auto-complete-config",  # ours are complete; else every stub is started twice
        f"--exit-timeout-secs={UNLOAD_S}",
        "--metrics-interval-ms=500",  # its end waits for one; 2 s by default
    ]
    for name in ("http", "grpc", "metrics"):
        command += [
            f"--{name}-address={options.host}",
            f"--{name}-port={getattr(options, name + '_port')}",
        ]
    if triton.backend_directory is not None:
        command.append(f"--backend-directory={triton.backend_directory}")
    return command


if __name__ == "__main__":
    sys.exit(main())
