"""`llama-fp4 metrics`: the engine's gauges and sums, off Triton's Prometheus endpoint."""

from __future__ import annotations

import argparse
import http.client
import re
import ssl
from collections.abc import Iterator
from dataclasses import dataclass

from llama_fp4.cli.options import add_server_options, connection
from llama_fp4.cli.output import OK, say_json, say_table
from llama_fp4.client import ASK_S
from llama_fp4.errors import ConnectError, ConnectTimeout, InvalidRequest, ServerFailed, must_be
from llama_fp4.transports.choose import metrics_url

SAMPLE = re.compile(r"([a-zA-Z_:][\w:]*)(?:\{(.*)\})?\s+(\S+)")
LABEL = re.compile(r'(\w+)="((?:[^"\\]|\\.)*)"')
REMEDY = "name the server's metrics with --metrics-url"
ENGINE = "llama_fp4_"
INFO = "llama_fp4_engine_info"  # its labels are the information, its value is 1
# Triton's own, of the model that clients call.
TRITON = {
    "nv_inference_request_success": "requests answered",
    "nv_inference_request_failure": "requests failed",
    "nv_inference_pending_request_count": "requests pending",
}


@dataclass(frozen=True)
class Sample:
    """One line of the endpoint."""

    name: str
    labels: dict[str, str]
    value: float


def add_options(parser: argparse.ArgumentParser) -> None:
    """Of this command."""
    parser.add_argument(
        "--metrics-url",
        metavar="URL",
        help="the endpoint (default: /metrics at --url's host, its gRPC port + 1 or HTTP port + 2)",
    )
    add_server_options(parser)


def run(options: argparse.Namespace) -> int:
    """Raises `LlamaError`."""
    given = connection(options)
    url = options.metrics_url or metrics_url(given["url"])
    samples = list(parse(fetch(url, options.timeout or ASK_S, options)))
    engine = [sample for sample in samples if sample.name.startswith(ENGINE)]
    triton = list(of_model(samples, options.model))
    if not engine and not triton:
        raise ServerFailed(
            f"{url} has metrics of neither the engine nor the model {options.model}; {REMEDY}"
        )
    if options.json:
        say_json({s.name: s.labels if s.name == INFO else s.value for s in [*engine, *triton]})
    else:
        say_table(rows(engine, triton))
    return OK


def fetch(url: str, timeout_s: float, options: argparse.Namespace) -> str:
    """The endpoint's text. Raises `LlamaError`."""
    scheme, mark, rest = url.partition("://")
    scheme, rest = (scheme, rest) if mark else ("http", url)
    address, slash, path = rest.partition("/")
    if scheme not in ("http", "https") or not re.fullmatch(r".+:\d+", address):
        raise must_be("--metrics-url", "http://host:port/metrics", url)
    link = _connection(scheme, address, timeout_s, options)
    try:
        link.request("GET", slash + path if path else "/metrics", headers=dict(options.header))
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
    scheme: str, address: str, timeout_s: float, options: argparse.Namespace
) -> http.client.HTTPConnection:
    if scheme == "http":
        return http.client.HTTPConnection(address, timeout=timeout_s)
    try:
        context = ssl.create_default_context(cafile=options.tls_ca)
        if options.tls_cert:
            context.load_cert_chain(options.tls_cert, options.tls_key)
    except OSError as error:
        raise InvalidRequest(f"--tls-ca or --tls-cert cannot be read: {error}") from error
    return http.client.HTTPSConnection(address, timeout=timeout_s, context=context)


def parse(text: str) -> Iterator[Sample]:
    """Every sample of the Prometheus text format; comments and what is no number are passed by."""
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
    """Triton's counts of the model, over its versions and, of failures, over their reasons."""
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
