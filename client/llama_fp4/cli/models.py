"""`llama-fp4 models`: the model repository, whose contract each model speaks, and its inputs."""

from __future__ import annotations

import argparse
import contextlib
import textwrap
from typing import Any

from llama_fp4.answers import ModelMetadata, ModelState
from llama_fp4.cli.options import add_server_options, transport_of
from llama_fp4.cli.output import OK, WIDTH, say, say_json, say_table
from llama_fp4.client import ASK_S
from llama_fp4.errors import InvalidRequest, UnknownModel, UnsupportedRequest
from llama_fp4.model_contract import Model


def add_options(parser: argparse.ArgumentParser) -> None:
    """Of this command."""
    add_server_options(parser, model=False)
    parser.add_argument("--inputs", action="store_true", help="also print every model's inputs")


def run(options: argparse.Namespace) -> int:
    """Raises `LlamaError`."""
    limit_s = options.timeout or ASK_S
    transport = transport_of(options)
    found: list[tuple[ModelState, ModelMetadata | None]] = []
    with contextlib.closing(transport):
        for state in transport.models(limit_s):
            metadata = None
            if state.state == "READY":
                with contextlib.suppress(UnknownModel):  # unloaded since
                    metadata = transport.metadata(state.name, limit_s)
            found.append((state, metadata))
    if options.json:
        say_json([model_json(state, metadata) for state, metadata in found])
        return OK
    if not found:
        say("no models")
        return OK
    rows = [
        [state.name, state.version or "-", state.state or "-", contract(metadata) or "-", _count(m)]
        for state, metadata in found
        for m in [metadata]
    ]
    say_table(rows, ["model", "version", "state", "contract", "inputs"])
    _say_details(found, options.inputs)
    return OK


def contract(metadata: ModelMetadata | None) -> str:
    """`ours`, `upstream` or `llmapi`; "" for a model that takes no text."""
    if metadata is None:
        return ""
    try:
        return Model(metadata).contract.name
    except (InvalidRequest, UnsupportedRequest):
        return ""


def model_json(state: ModelState, metadata: ModelMetadata | None) -> dict[str, Any]:
    """One model; `inputs` is None while it is not ready."""
    inputs = None
    if metadata is not None:
        inputs = [
            {"name": t.name, "datatype": t.datatype, "shape": list(t.shape)}
            for t in metadata.inputs
        ]
    return {
        "name": state.name,
        "version": state.version,
        "state": state.state,
        "reason": state.reason,
        "contract": contract(metadata) or None,
        "inputs": inputs,
    }


def _count(metadata: ModelMetadata | None) -> str:
    return "-" if metadata is None else str(len(metadata.inputs))


def _say_details(found: list[tuple[ModelState, ModelMetadata | None]], inputs: bool) -> None:
    for state, metadata in found:
        if state.reason:
            say(textwrap.fill(f"{state.name}: {state.reason}", WIDTH, subsequent_indent="  "))
        if inputs and metadata is not None:
            names = ", ".join(f"{t.name} {t.datatype}" for t in metadata.inputs)
            say()
            say(textwrap.fill(f"{state.name}: {names}", WIDTH, subsequent_indent="  "))
