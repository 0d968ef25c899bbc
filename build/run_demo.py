"""From a checkpoint to a streamed answer: compile, serve, ask one question, keep serving.

What `make demo` runs. Every phase prints one line with its seconds; a second run uses the engine
that the first one compiled.
"""

from __future__ import annotations

import argparse
import json
import signal
import subprocess
import sys
import time
from pathlib import Path

from host.console import BuildError, run_script, say, script_imports
from serve import check_path

with script_imports(__name__):
    from doctor import short_report
    from llama_fp4 import Client, LlamaError
    from serving.child_server import Ports, ServerProcess
    from serving.gateway_process import missing_package

BUILD = Path(__file__).resolve().parent
OUT = BUILD / "out"
QUESTION = "Tell me a story about a robot called Tom."
MAX_TOKENS = 256


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--checkpoint", type=Path, default=BUILD / "demo" / "checkpoint")
    parser.add_argument("--question", default=QUESTION)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--http-port", type=int, default=8000)
    parser.add_argument("--grpc-port", type=int, default=8001)
    parser.add_argument("--metrics-port", type=int, default=8002)
    parser.add_argument("--gateway-port", type=int, default=9000)
    parser.add_argument("--no-gateway", action="store_true", help="Triton's own ports alone")
    parser.add_argument("--once", action="store_true", help="stop after the answer")
    options = parser.parse_args()
    check_path(BUILD.parent)
    gateway = None if options.no_gateway or missing_package() else options.gateway_port
    ports = Ports(options.host, options.http_port, options.grpc_port, options.metrics_port, gateway)
    say(short_report())
    engine = OUT / "engine-demo"
    # SIGTERM must end the server too, as Ctrl-C does.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    started = time.monotonic()
    source = ("--profile", "demo", "--checkpoint", str(options.checkpoint))
    _run("compile_engine.py", *source, "--output", str(engine))
    _run("assemble_repository.py", "--engine", str(engine))
    say(f"compile: {time.monotonic() - started:.1f} s in all")
    server = ServerProcess(BUILD.parent / "model_repository", ports, OUT / "server.log")
    _serve(server, options.question, options.once)


def _run(script: str, *arguments: str) -> None:
    if subprocess.call([sys.executable, str(BUILD / script), *arguments]) != 0:
        raise SystemExit(1)  # the script has printed why


def _serve(server: ServerProcess, question: str, once: bool) -> None:
    started = time.monotonic()
    try:
        server.start()
        say(f"server start: {time.monotonic() - started:.1f} s (log: {server.log_file})")
        for phase, seconds in server.phases():
            say(f"  of which {phase}: {seconds:.2f} s")
        _ask(server.ports, question)
        if not once:
            say("serving until Ctrl-C")
            code = server.wait()
            raise BuildError(f"the server ended with exit code {code}: {server.failure()}")
    except KeyboardInterrupt:
        say("\nstopping")
    except LlamaError as error:
        raise BuildError(
            f"the question failed ({error.code}: {error}); see {server.log_file}"
        ) from error
    finally:
        server.stop()


def _ask(ports: Ports, question: str) -> None:
    messages = [{"role": "user", "content": question}]
    say(f"\n> {question}")
    started = time.monotonic()
    arrivals: list[tuple[float, int]] = []  # when, and how many tokens
    with Client(ports.url("grpc")) as client:
        for chunk in client.stream(messages, max_tokens=MAX_TOKENS):
            arrivals.append((time.monotonic(), chunk.num_output_tokens))
            print(chunk.text, end="", flush=True)
    first, last = arrivals[0], arrivals[-1]
    tokens = sum(count for _, count in arrivals)
    say(
        f"\n\nfirst token: {(first[0] - started) * 1e3:.0f} ms, {tokens} tokens, "
        f"{(tokens - first[1]) / max(last[0] - first[0], 1e-3):.0f} tokens/s after it\n"
    )
    body = json.dumps({"messages": json.dumps(messages), "max_tokens": MAX_TOKENS, "stream": True})
    say(
        "the same over HTTP:\n"
        f"  curl -N {ports.url('http')}/v2/models/ensemble/generate_stream -d '{body}'\n"
    )
    if ports.gateway is not None:
        url = f"http://{ports.url('gateway')}"
        asked = json.dumps({"model": "ensemble", "messages": messages, "stream": True})
        kind = "-H 'content-type: application/json'"
        say(
            f"by OpenAI's API at {url}/v1 (the chat page: {url}/):\n"
            f"  curl -N {url}/v1/chat/completions {kind} -d '{asked}'\n"
        )


if __name__ == "__main__":
    run_script(main)
