"""`llama-fp4 health`, `models` and `metrics`: questions to a server."""

from __future__ import annotations

import argparse
import contextlib
import http.client
import re
import ssl
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from llama_fp4.answers import ModelMetadata, ModelState
from llama_fp4.cli.options import ServerOptions, add_server_options, server_options
from llama_fp4.cli.output import OK, SERVER_ERROR, WIDTH, say, say_json, say_table, yes
from llama_fp4.client import Client
from llama_fp4.errors import (
    ConnectError,
    ConnectTimeout,
    InvalidRequest,
    LlamaError,
    ServerFailed,
    UnknownModel,
    UnsupportedRequest,
    must_be,
)
from llama_fp4.model_contract import Model
from llama_fp4.settings import Tls
from llama_fp4.transports.choose import metrics_url

SAMPLE = re.compile(r"([a-zA-Z_:][\w:]*)(?:\{(.*)\})?\s+(\S+)")
LABEL = re.compile(r'(\w+)="((?:[^"\\]|\\.)*)"')
REMEDY = "name the server's metrics with --metrics-url"
ENGINE = "llama_fp4_"
INFO = "llama_fp4_engine_info"  # its labels are the information, its value is 1
BANNER_S = 1.0  # `chat` does not wait longer for the engine's name
# Triton's own counters, for the model that clients call.
TRITON = {
    "nv_inference_request_success": "requests answered",
    "nv_inference_request_failure": "requests failed",
    "nv_inference_pending_request_count": "requests pending",
}
Found = list[tuple[ModelState, ModelMetadata | None]]


def add_health_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of `llama-fp4 health`."""
    add_server_options(parser)


health_options = server_options


def run_health(options: ServerOptions) -> int:
    """Exit code 1 if one of the three answers is no. Raises `LlamaError` without an answer."""
    with options.client() as client:
        health = client.health(options.ask_s)
        server = client.server(options.ask_s)
    if options.as_json:
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


def add_models_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of `llama-fp4 models`."""
    add_server_options(parser, model=False)
    parser.add_argument("--inputs", action="store_true", help="also print each model's inputs")


@dataclass(frozen=True)
class ModelsOptions:
    """`inputs`: print each model's inputs too."""

    server: ServerOptions
    inputs: bool


def models_options(given: argparse.Namespace) -> ModelsOptions:
    """Raises `InvalidRequest`."""
    return ModelsOptions(server_options(given), given.inputs)


def run_models(options: ModelsOptions) -> int:
    """Raises `LlamaError`."""
    found = _models(options.server)
    if options.server.as_json:
        say_json([model_json(state, metadata) for state, metadata in found])
        return OK
    if not found:
        say("no models")
        return OK
    rows = [
        [
            state.name,
            state.version or "-",
            state.state or "-",
            contract(metadata) or "-",
            "-" if metadata is None else str(len(metadata.inputs)),
        ]
        for state, metadata in found
    ]
    say_table(rows, ["model", "version", "state", "contract", "inputs"])
    _say_details(found, options.inputs)
    return OK


def _models(options: ServerOptions) -> Found:
    found: Found = []
    with contextlib.closing(options.transport()) as transport:
        for state in transport.models(options.ask_s):
            metadata = None
            if state.state == "READY":
                with contextlib.suppress(UnknownModel):  # unloaded since
                    metadata = transport.metadata(state.name, options.ask_s)
            found.append((state, metadata))
    return found


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


def _say_details(found: Found, inputs: bool) -> None:
    for state, metadata in found:
        if state.reason:
            say(textwrap.fill(f"{state.name}: {state.reason}", WIDTH, subsequent_indent="  "))
        if inputs and metadata is not None:
            names = ", ".join(f"{t.name} {t.datatype}" for t in metadata.inputs)
            say()
            say(textwrap.fill(f"{state.name}: {names}", WIDTH, subsequent_indent="  "))


@dataclass(frozen=True)
class Sample:
    """One line of Prometheus' text format."""

    name: str
    labels: dict[str, str]
    value: float


def add_metrics_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of `llama-fp4 metrics`."""
    add_metrics_url(parser)
    add_server_options(parser)


def add_metrics_url(parser: argparse.ArgumentParser) -> None:
    """Add `--metrics-url`, for commands that read the metrics."""
    parser.add_argument(
        "--metrics-url",
        metavar="URL",
        help="Prometheus endpoint (default: /metrics at --url's host, gRPC port + 1 or HTTP "
        "port + 2)",
    )


@dataclass(frozen=True)
class MetricsOptions:
    """`url` None: where serve.py has the metrics by default."""

    server: ServerOptions
    url: str | None


def metrics_options(given: argparse.Namespace) -> MetricsOptions:
    """Raises `InvalidRequest`."""
    return MetricsOptions(server_options(given), given.metrics_url)


def run_metrics(options: MetricsOptions) -> int:
    """Raises `LlamaError`."""
    server = options.server
    url = options.url or metrics_url(server.url)
    samples = list(parse(fetch(url, server.ask_s, server)))
    engine = [sample for sample in samples if sample.name.startswith(ENGINE)]
    triton = list(of_model(samples, server.model))
    if not engine and not triton:
        raise ServerFailed(
            f"{url} has metrics of neither the engine nor the model {server.model}; {REMEDY}"
        )
    if server.as_json:
        say_json({s.name: s.labels if s.name == INFO else s.value for s in [*engine, *triton]})
    else:
        say_table(rows(engine, triton))
    return OK


def banner(client: Client, options: ServerOptions, metrics: str | None) -> str:
    """Model, runtime and server, for `chat`. Raises `LlamaError` if the server does not answer."""
    server = client.server()
    engine: dict[str, str] = {}
    with contextlib.suppress(LlamaError):  # the metrics may be elsewhere
        text = fetch(metrics or metrics_url(options.url), BANNER_S, options)
        engine = next((sample.labels for sample in parse(text) if sample.name == INFO), {})
    parts = [engine.get("model") or f"model {options.model}"]
    if engine.get("runtime"):
        parts.append(f"{engine['runtime']} runtime")
    return ", ".join([*parts, f"{server.name} {server.version} at {options.url}"])


def fetch(url: str, timeout_s: float, options: ServerOptions) -> str:
    """The endpoint's text. Raises `LlamaError`."""
    scheme, mark, rest = url.partition("://")
    scheme, rest = (scheme, rest) if mark else ("http", url)
    address, slash, path = rest.partition("/")
    if scheme not in ("http", "https") or not re.fullmatch(r".+:\d+", address):
        raise must_be("--metrics-url", "http://host:port/metrics", url)
    link = _connection(scheme, address, timeout_s, options.tls or Tls())
    try:
        link.request("GET", slash + path if path else "/metrics", headers=dict(options.headers))
        answer = link.getresponse()
        text = answer.read().decode(errors="replace")
    except TimeoutError as error:
        raise ConnectTimeout(f"no metrics from {address} in {timeout_s:g} s; {REMEDY}") from error
    except (OSError, http.client.HTTPException) as error:
        reason = getattr(error, "strerror", None) or error
        raise ConnectError(f"no metrics from {address}: {reason}; {REMEDY}") from error
    finally:
        link.close()
    if answer.status != 200:
        raise ServerFailed(f"{url} answers with {answer.status} {answer.reason}; {REMEDY}")
    return text


def _connection(
    scheme: str, address: str, timeout_s: float, tls: Tls
) -> http.client.HTTPConnection:
    """The standard library's, because a client over gRPC needs no HTTP library."""
    if scheme == "http":
        return http.client.HTTPConnection(address, timeout=timeout_s)
    try:
        context = ssl.create_default_context(cafile=tls.ca)
        if tls.cert:
            context.load_cert_chain(tls.cert, tls.key)
    except OSError as error:
        raise InvalidRequest(f"--tls-ca or --tls-cert cannot be read: {error}") from error
    return http.client.HTTPSConnection(address, timeout=timeout_s, context=context)


def parse(text: str) -> Iterator[Sample]:
    """The samples of Prometheus' text format, without comments and values that are not numbers."""
    for line in text.splitlines():
        found = SAMPLE.match(line)
        if line.startswith("#") or found is None:
            continue
        try:
            value = float(found[3])
        except ValueError:
            continue
        if value == value and abs(value) != float("inf"):
            yield Sample(found[1], dict(LABEL.findall(found[2] or "")), value)


def of_model(samples: list[Sample], model: str) -> Iterator[Sample]:
    """Triton's counts for the model, summed over its versions and the reasons of failures."""
    for name in TRITON:
        found = [s.value for s in samples if s.name == name and s.labels.get("model") == model]
        if found:
            yield Sample(name, {"model": model}, sum(found))


def rows(engine: list[Sample], triton: list[Sample]) -> Iterator[tuple[str, str]]:
    """The table: what is served, the engine's values, the means of its sums, Triton's counts."""
    for sample in engine:
        if sample.name == INFO:
            yield from ((name.replace("_", " "), text) for name, text in sample.labels.items())
    values = {s.name.removeprefix(ENGINE): s.value for s in engine if s.name != INFO}
    for name, value in values.items():
        yield name.replace("_", " "), f"{value:.3f}".rstrip("0").rstrip(".")
    sequences = values.get("sequences", 0.0)
    for name in ("queue", "prefill"):
        total = values.get(f"{name}_seconds")
        if sequences and total is not None:
            yield f"mean {name} ms", f"{total / sequences * 1000:.1f}"
    for sample in triton:
        yield f"{sample.labels['model']} {TRITON[sample.name]}", f"{sample.value:.0f}"
