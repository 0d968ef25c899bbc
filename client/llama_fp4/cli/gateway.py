"""`llama-fp4 gateway`: OpenAI's API before the server."""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from llama_fp4.cli.inspect_server import add_metrics_url
from llama_fp4.cli.options import add_server_options, server_options
from llama_fp4.cli.output import OK, note, say
from llama_fp4.errors import InvalidRequest, must_be
from llama_fp4.gateway.api_keys import hashed, new_key
from llama_fp4.gateway.settings import DEFAULT_PORT, GatewaySettings
from llama_fp4.transports.choose import metrics_url

MOST = 2**31 - 1
ORIGIN = re.compile(r"[a-z][a-z0-9+.-]*://[^/?#@\sA-Z]+|null")
PACKAGES = ("starlette", "uvicorn", "httptools", "uvloop", "pydantic", "prometheus_client")


def add_gateway_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of `llama-fp4 gateway`."""
    group = parser.add_argument_group("gateway")
    group.add_argument("--host", default="127.0.0.1", help="where to listen (default: %(default)s)")
    _add_number(group, "--port", DEFAULT_PORT, "where to listen", most=65535)
    group.add_argument(
        "--served-name",
        action="append",
        metavar="NAME",
        help="what requests call the model; may be repeated (default: --model)",
    )
    _add_number(group, "--workers", 1, "processes on the one port", most=256)
    group.add_argument(
        "--cors-origin",
        type=_origin,
        action="append",
        default=[],
        metavar="URL",
        help="let pages of this origin ask; may be repeated (default: none)",
    )
    group.add_argument("--quiet", action="store_true", help="log no requests")
    _add_security(parser.add_argument_group("keys and TLS"))
    _add_limits(parser.add_argument_group("limits"))
    add_metrics_url(parser)
    add_server_options(parser)


def _add_security(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--api-keys", type=Path, metavar="FILE", help="ask for one of the keys with these hashes"
    )
    group.add_argument(
        "--new-key", metavar="NAME", help="print a new key and its line for that file, then end"
    )
    group.add_argument("--certificate", type=Path, metavar="FILE", help="PEM; serve https")
    group.add_argument("--certificate-key", type=Path, metavar="FILE", help="PEM of its key")


def _add_limits(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--max-tokens", type=_number(1, MOST), metavar="N", help="longest answer (default: none)"
    )
    _add_number(group, "--max-body-bytes", 4 << 20, "largest body")
    _add_number(group, "--max-requests", 1024, "requests in flight in one worker")
    _add_number(group, "--body-timeout", 30, "seconds for a body to come")
    _add_number(group, "--exit-timeout", 30, "seconds that streams may take to end", least=0)


def _add_number(
    group: argparse._ArgumentGroup,
    option: str,
    default: int,
    text: str,
    least: int = 1,
    most: int = MOST,
) -> None:
    kind, text = _number(least, most), f"{text} (default: {default})"
    group.add_argument(option, type=kind, default=default, metavar="N", help=text)


@dataclass(frozen=True)
class GatewayOptions:
    """The command line: a gateway to run, or else a key to make."""

    settings: GatewaySettings | None
    new_key: str = ""  # whose


def gateway_options(given: argparse.Namespace) -> GatewayOptions:
    """Parse the command line. Raises `InvalidRequest`."""
    if given.new_key is None:
        return GatewayOptions(_settings(given))
    if not given.new_key.strip() or not given.new_key.isprintable():
        raise must_be("--new-key", "printable text", given.new_key)
    return GatewayOptions(None, given.new_key.strip())


def run_gateway(options: GatewayOptions) -> int:
    """Serve until a signal. Raises `InvalidRequest`."""
    settings = options.settings
    if settings is None:
        return _make_key(options.new_key)
    try:
        from llama_fp4.gateway.server import run
    except ModuleNotFoundError as error:
        if error.name not in PACKAGES:
            raise
        raise InvalidRequest(
            f"the gateway needs {error.name}: pip install 'llama-fp4[gateway]'"
        ) from error
    is_own = settings.host in ("localhost", "::1") or settings.host.startswith("127.")
    if not is_own and settings.api_keys is None:
        note("warning: others can reach this port, and no API key is asked for (--api-keys)")
    say(f"gateway: {settings.url} before {settings.server.url}")
    return run(settings)


def _settings(given: argparse.Namespace) -> GatewaySettings:
    server = server_options(given)
    if server.url.startswith(("http://", "https://")):
        raise must_be("--url", "host:port of the server's gRPC port", server.url)
    if (given.certificate is None) != (given.certificate_key is None):
        raise InvalidRequest("--certificate and --certificate-key must be given together")
    pair = (given.certificate, given.certificate_key) if given.certificate else None
    return GatewaySettings(
        server,
        given.metrics_url or metrics_url(server.url),
        tuple(given.served_name or [server.model]),
        host=given.host,
        port=given.port,
        workers=given.workers,
        api_keys=given.api_keys,
        certificate=pair,
        cors_origins=tuple(given.cors_origin),
        max_body_bytes=given.max_body_bytes,
        max_tokens=given.max_tokens,
        max_requests=given.max_requests,
        body_timeout_s=given.body_timeout,
        exit_timeout_s=given.exit_timeout,
        logs_requests=not given.quiet,
    )


def _make_key(name: str) -> int:
    """Print a new key on stderr and its line for --api-keys on stdout."""
    key = new_key()
    note(f"the key, shown only here: {key}")
    say(f"{hashed(key)} {name}")
    return OK


def _origin(text: str) -> str:
    """As browsers send it: a path would never match."""
    if text != "*" and not ORIGIN.fullmatch(text):
        raise argparse.ArgumentTypeError(f"must be like https://host:port or *, not {text!r}")
    return text


def _number(least: int, most: int) -> Callable[[str], int]:
    def read(text: str) -> int:
        number = int(text) if text.isascii() and text.isdecimal() and len(text) < 12 else -1
        if not least <= number <= most:
            raise argparse.ArgumentTypeError(
                f"must be an integer of {least} to {most}, not {text!r}"
            )
        return number

    return read
