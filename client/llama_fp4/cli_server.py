"""`llama-fp4 health`: live, ready, the model ready, and which server it is."""

from __future__ import annotations

import argparse
from typing import Any

from llama_fp4.cli_console import OK, SERVER_ERROR, say_json, say_table, yes
from llama_fp4.cli_options import add_server_options, open_client, transport_of
from llama_fp4.client import ASK_S
from llama_fp4.transport import Transport


def add_options(parser: argparse.ArgumentParser) -> None:
    """Of this command."""
    add_server_options(parser)


def run(options: argparse.Namespace) -> int:
    """Exit code 1 if one of the three is no. Raises `LlamaError` if nobody answers."""
    limit_s = options.timeout or ASK_S
    transport = transport_of(options)
    with open_client(options, transport=transport) as client:
        health = client.health(limit_s)
        name, version = server(transport, limit_s)
    if options.json:
        say_json(
            {
                "server": name,
                "version": version,
                "live": health.live,
                "ready": health.ready,
                "model": options.model,
                "model_ready": health.model_ready,
            }
        )
    else:
        say_table(
            [
                ["server", f"{name} {version}".strip()],
                ["live", yes(health.live)],
                ["ready", yes(health.ready)],
                [f"model {options.model} ready", yes(health.model_ready)],
            ]
        )
    whole = health.live and health.ready and health.model_ready
    return OK if whole else SERVER_ERROR


def server(transport: Transport, timeout_s: float) -> tuple[str, str]:
    """Triton's name and version. Both wires have it, and the transports do not ask for it."""
    wire: Any = transport
    if hasattr(wire, "_get"):
        document = wire._get("/v2", timeout_s)
        return document["name"], document["version"]
    from tritonclient.grpc import service_pb2

    answer = wire._ask("ServerMetadata", service_pb2.ServerMetadataRequest(), timeout_s)
    return answer.name, answer.version
