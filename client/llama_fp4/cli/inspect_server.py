"""`llama-fp4 health`: live, ready, the model ready, and which server it is."""

from __future__ import annotations

import argparse

from llama_fp4.cli.options import add_server_options, open_client
from llama_fp4.cli.output import OK, SERVER_ERROR, say_json, say_table, yes
from llama_fp4.client import ASK_S


def add_options(parser: argparse.ArgumentParser) -> None:
    """Of this command."""
    add_server_options(parser)


def run(options: argparse.Namespace) -> int:
    """Exit code 1 if one of the three is no. Raises `LlamaError` if nobody answers."""
    limit_s = options.timeout or ASK_S
    with open_client(options) as client:
        health = client.health(limit_s)
        server = client.server(limit_s)
    if options.json:
        say_json(
            {
                "server": server.name,
                "version": server.version,
                "live": health.live,
                "ready": health.ready,
                "model": options.model,
                "model_ready": health.model_ready,
            }
        )
    else:
        say_table(
            [
                ["server", f"{server.name} {server.version}".strip()],
                ["live", yes(health.live)],
                ["ready", yes(health.ready)],
                [f"model {options.model} ready", yes(health.model_ready)],
            ]
        )
    whole = health.live and health.ready and health.model_ready
    return OK if whole else SERVER_ERROR
