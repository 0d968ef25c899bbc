"""Broken bodies for the gateway before the replay engine: `python -m tests.fuzzing.gateway`.

Each must be served or refused with a 4xx in OpenAI's form; the gateway must log no traceback, and
afterwards the server must answer as before. Exit code 1 and the body's number otherwise.
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from host.console import run_script, say
from serving.child_server import ServerProcess, free_ports

from tests.support.deployments import make_deployment
from tests.support.gateway_bodies import broken_body
from tests.support.gateway_calls import Gateway, chat, error_of, gateway_of, post

AT_ONCE = 8


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--count", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(2**32))
    options = parser.parse_args()
    say(f"seed {options.seed}")
    with tempfile.TemporaryDirectory() as name:
        repository = make_deployment(Path(name), "--runtime", "replay")
        with (
            ServerProcess(repository, free_ports(), Path(name) / "server.log") as server,
            gateway_of(server, Path(name), "--quiet") as gateway,
        ):
            faults = check_bodies(gateway, options.count, options.seed)
            assert post(gateway, "/v1/chat/completions", chat(max_tokens=1)).status_code == 200
    say(f"{options.count} bodies, {len(faults)} faults")
    sys.exit(1 if faults else 0)


def check_bodies(gateway: Gateway, count: int, seed: int) -> list[str]:
    """What was wrong with the answers; each body has a seed of its own."""

    def check(number: int) -> str:
        path, body = broken_body(random.Random(f"{seed}-{number}"))
        answer = post(gateway, path, body)
        try:
            if answer.status_code != 200:
                error_of(answer)
            fits = answer.status_code == 200 or 400 <= answer.status_code < 500
        except (AssertionError, ValueError, LookupError):
            fits = False
        said = f"body {number}: {path} {body[:300]!r} got {answer.status_code} {answer.text[:300]}"
        if not fits:
            say(said)
        return "" if fits else said

    with ThreadPoolExecutor(AT_ONCE) as pool:
        return [fault for fault in pool.map(check, range(count)) if fault]


if __name__ == "__main__":
    run_script(main)
