"""Run Triton on a model repository, and OpenAI's API before it, until Ctrl-C.

It runs the tritonserver on PATH (NVIDIA's container), else the one in the package nvidia-pytriton,
on 127.0.0.1 unless --host says otherwise, and passes on its log and its exit code. SIGINT and
SIGTERM finish the requests in flight and end the engine; clients that stay connected do not delay
that for long. A second signal kills the server. However it ends, no Python stub and no
shared-memory region stays behind. A start that makes no progress is given up and tried again.
"""

from __future__ import annotations

import argparse
import socket
import sys
from dataclasses import dataclass
from pathlib import Path

from host.console import fail, say
from host.shell_path import path_problem
from repository.unary import kind_of
from serving.find_triton import TritonInstallation, TritonNotFound, find_triton
from serving.gateway_process import missing_package
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
    gateway_port: int
    no_gateway: bool
    exit_timeout: float
    start_timeout: float
    gateway_flags: tuple[str, ...] = ()


def main(arguments: list[str] | None = None) -> int:
    """Serve until a signal; returns Triton's exit code, or 128 + signal if it was killed.

    0 also if it had to be killed because it waited for nothing but clients.
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
        gateway_command(options),
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
        "--gateway-port",
        type=_port,
        default=9000,
        metavar="N",
        help="of OpenAI's API (default %(default)s); arguments after -- are the gateway's own",
    )
    parser.add_argument("--no-gateway", action="store_true", help="Triton's own ports alone")
    parser.add_argument(
        "--exit-timeout",
        type=_seconds,
        default=30,
        metavar="SECONDS",
        help="how long requests in flight may take to end (default %(default)s)",
    )
    parser.add_argument(
        "--start-timeout",
        type=_positive_seconds,
        default=60,
        metavar="SECONDS",
        help="how long a model's start may make no progress before Triton is started again; the "
        "load of the engine does not count (default %(default)s)",
    )
    given = list(sys.argv[1:] if arguments is None else arguments)
    at = given.index("--") if "--" in given else len(given)
    return Options(**vars(parser.parse_args(given[:at])), gateway_flags=tuple(given[at + 1 :]))


def _ipv4_address(text: str) -> str:
    """As numbers: for a name, Triton's HTTP frontend would bind 255.255.255.255."""
    try:
        found = socket.getaddrinfo(text, None, socket.AF_INET, socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        raise argparse.ArgumentTypeError(
            f"must be an IPv4 address or the name of one, not {text!r}"
        ) from None
    return str(found[0][4][0])


def _port(text: str) -> int:
    port = int(text) if text.isdecimal() else 0
    if not 1 <= port <= 65535:
        raise argparse.ArgumentTypeError(f"must be a port from 1 to 65535, not {text!r}")
    return port


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = -1.0
    if not 0 <= seconds < float("inf"):
        raise argparse.ArgumentTypeError(f"must be seconds, 0 or more, not {text!r}")
    return seconds


def _positive_seconds(text: str) -> float:
    if _seconds(text) == 0:
        raise argparse.ArgumentTypeError(f"must be seconds above 0, not {text!r}")
    return float(text)


def check_repository(repository: Path) -> None:
    """End with one sentence if `repository` has no models or no engine."""
    if not (repository / "ensemble" / "config.pbtxt").is_file():
        fail(
            f"{repository} is not a model repository of this project: it has no "
            "ensemble/config.pbtxt; name one with --model-repository"
        )
    engine = repository / "tensorrt_llm" / "1" / "engine" / "engine.json"
    if not engine.is_file():
        fail(f"there is no engine: {engine} does not exist; build one with 'make engine'")


def check_path(path: Path) -> None:
    """End with one sentence if Triton cannot start its Python models from there."""
    problem = path_problem(path)
    if problem:
        fail(problem)


def check_ports(options: Options) -> None:
    """End with one sentence if a port is taken; Triton's own is buried in its log."""
    for name in ("http", "grpc", "metrics", "gateway")[: 3 if options.no_gateway else 4]:
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
    """Triton's command line."""
    command = [
        str(triton.binary),
        f"--model-repository={options.model_repository.resolve()}",
        "--model-control-mode=none",
        "--disable-auto-complete-config",  # ours are complete; otherwise each stub starts twice
        f"--exit-timeout-secs={UNLOAD_S}",
        "--metrics-interval-ms=500",  # its stop waits for the next one; by default 2 s
    ]
    for name in ("http", "grpc", "metrics"):
        command += [
            f"--{name}-address={options.host}",
            f"--{name}-port={getattr(options, name + '_port')}",
        ]
    if triton.backend_directory is not None:
        command.append(f"--backend-directory={triton.backend_directory}")
    return command


def gateway_command(options: Options) -> tuple[str, ...]:
    """The gateway's command line; empty for none."""
    if options.no_gateway:
        return ()
    missing = missing_package()
    if missing:
        say(f"no gateway: it needs {missing}; 'pip install .[gateway]' installs it")
        return ()
    host = "127.0.0.1" if options.host == "0.0.0.0" else options.host
    return (
        sys.executable,
        "-m",
        "llama_fp4",
        "gateway",
        *("--host", options.host, "--port", str(options.gateway_port)),
        *("--url", f"{host}:{options.grpc_port}"),
        *("--metrics-url", f"http://{host}:{options.metrics_port}/metrics"),
        *("--exit-timeout", str(round(options.exit_timeout))),
        *options.gateway_flags,
    )


if __name__ == "__main__":
    sys.exit(main())
