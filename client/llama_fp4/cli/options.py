"""The options that commands share: where the server is, and every field of `SamplingParams`."""

from __future__ import annotations

import argparse
import functools
import json
import math
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from llama_fp4.client import ASK_S, Client
from llama_fp4.errors import InvalidRequest, must_be
from llama_fp4.sampling import FLAGS, GUIDES, INTEGERS, LISTS, NUMBERS, SamplingParams, described
from llama_fp4.settings import Keepalive, Timeouts, Tls
from llama_fp4.transports.base import Transport
from llama_fp4.transports.choose import open_transport

URL_VARIABLE = "LLAMA_FP4_URL"
CONNECT_S = 10.0  # for the first call, unless --timeout is less
DEFAULT_URL = "127.0.0.1:8001"
HEADER_NAME = re.compile(r"[A-Za-z0-9_.-]+")
# What each does, in a few words; model_repository/TENSORS.md says more.
TEXTS = {
    "max_tokens": "the longest answer, in tokens",
    "min_tokens": "the shortest answer, in tokens",
    "temperature": "0 is greedy",
    "top_k": "sample from the K likeliest tokens; 0: from all",
    "top_p": "sample from the likeliest tokens with this total probability",
    "min_p": "least probability, as a share of the likeliest token's",
    "seed": "the same seed gives the same answer",
    "stop_words": "end the answer at this text; may be repeated",
    "bad_words": "never write this text; may be repeated",
    "include_stop_str_in_output": "keep the stop word in the answer",
    "end_id": "the token that ends an answer; -1: none",
    "ignore_eos": "generate up to --max-tokens",
    "skip_special_tokens": "leave special tokens out of the text",
    "exclude_input_in_output": "leave the prompt out of the text",
    "embedding_bias_words": "make this text more or less likely; may be repeated",
    "embedding_bias_weights": "by how much: one weight for each of those words",
    "guided_decoding_guide_type": "the kind of the guide",
    "guided_decoding_guide": "what the answer must match; @FILE reads a file",
    "tools": "JSON in OpenAI's form; @FILE reads a file",
    "priority": "the lowest starts first",
    "timeout_ms": "end the answer after this time on the server",
}
OPTIONS = {"stop_words": "--stop"}


@dataclass(frozen=True)
class ServerOptions:
    """Where the server is, how to connect and how long to wait, and whether to print JSON."""

    url: str
    model: str = "ensemble"
    timeout_s: float | None = None
    tls: Tls | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    as_json: bool = False

    @property
    def ask_s(self) -> float:
        """The limit, in seconds, of a call that generates nothing."""
        return self.timeout_s or ASK_S

    def arguments(self) -> dict[str, Any]:
        """The arguments of `Client` and `AsyncClient`."""
        return {
            "url": self.url,
            "model": self.model,
            "token_ids": False,
            "tls": self.tls,
            "headers": self.headers,
            "timeouts": self._timeouts(),
        }

    def client(self) -> Client:
        """A client of this server."""
        return Client(**self.arguments())

    def transport(self) -> Transport:
        """A connection without a client, for questions that a client does not ask."""
        transport: Transport = open_transport(
            self.url, False, self.tls, self.headers, Keepalive(), self._timeouts().connect
        )
        return transport

    def _timeouts(self) -> Timeouts:
        return Timeouts(min(self.timeout_s or CONNECT_S, CONNECT_S), total=self.timeout_s)


def server_options(given: argparse.Namespace) -> ServerOptions:
    """Read the options of `add_server_options`. Raises `InvalidRequest`."""
    files = {"ca": given.tls_ca, "cert": given.tls_cert, "key": given.tls_key}
    secured = any(files.values()) or given.tls_name
    return ServerOptions(
        given.url or os.environ.get(URL_VARIABLE) or DEFAULT_URL,
        getattr(given, "model", "ensemble"),
        given.timeout,
        Tls(**files, server_name=given.tls_name) if secured else None,
        dict(given.header),
        given.json,
    )


def add_server_options(parser: argparse.ArgumentParser, model: bool = True) -> None:
    """Add the options of `ServerOptions`, without `model` for a command about all models."""
    group = parser.add_argument_group("server")
    address = f"host:port (gRPC) or http://host:port (default: ${URL_VARIABLE} or {DEFAULT_URL})"
    group.add_argument("--url", metavar="URL", help=address)
    if model:
        group.add_argument("--model", default="ensemble", metavar="NAME", help="default: ensemble")
    group.add_argument(
        "--timeout",
        type=_seconds,
        metavar="SECONDS",
        help="limit for the whole request (default: none)",
    )
    group.add_argument(
        "--tls-ca", metavar="FILE", help="PEM of the authority to trust; turns TLS on"
    )
    group.add_argument("--tls-cert", metavar="FILE", help="PEM of the client's certificate")
    group.add_argument("--tls-key", metavar="FILE", help="PEM of its key")
    group.add_argument(
        "--tls-name", default="", metavar="NAME", help="name in the server's certificate"
    )
    group.add_argument(
        "--header",
        action="append",
        default=[],
        type=_header,
        metavar="NAME=VALUE",
        help="sent with every call, never printed; may be repeated",
    )
    group.add_argument("--json", action="store_true", help="JSON instead of text, errors too")


def add_sampling_options(parser: argparse.ArgumentParser, max_tokens: str = "") -> None:
    """Add an option for each field of `SamplingParams`; `max_tokens` describes its default."""
    group = parser.add_argument_group("sampling, left to the server if not given")
    for each in fields(SamplingParams):
        name = each.name
        option = OPTIONS.get(name, "--" + name.replace("_", "-"))
        text = "; ".join(part for part in (TEXTS.get(name, ""), allowed(name)) if part)
        if name == "max_tokens":
            text += f" (default: {max_tokens or each.default})"
        more: dict[str, Any] = {"dest": name, "default": None, "help": text.replace("%", "%%")}
        if name in FLAGS:
            group.add_argument(option, action=argparse.BooleanOptionalAction, **more)
            continue
        kind = functools.partial(_option_value, name)
        action = "append" if name in LISTS else "store"
        group.add_argument(option, action=action, type=kind, metavar=_metavar(name), **more)
    group.add_argument(
        "--choice",
        action=_AddChoice,
        type=functools.partial(check_text, "a choice"),
        metavar="TEXT",
        default=argparse.SUPPRESS,
        help="answer with exactly one of these texts; may be repeated",
    )


class _AddChoice(argparse.Action):
    """Each one makes the guide of the type choice longer."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: Any,
        option_string: str | None = None,
    ) -> None:
        choices = namespace.guided_decoding_guide or []
        if not isinstance(choices, list):
            parser.error("--choice is a guide of its own, without --guided-decoding-guide")
        if namespace.guided_decoding_guide_type not in (None, "choice"):
            parser.error("--choice is a guide of the type choice, without another type")
        namespace.guided_decoding_guide_type = "choice"
        namespace.guided_decoding_guide = [*choices, values]


def allowed(name: str) -> str:
    """What the value of a field must be; "" for any text."""
    if name == "guided_decoding_guide_type":
        return ", ".join(GUIDES)
    if name in INTEGERS or name in NUMBERS or name == "embedding_bias_weights":
        return described(name)
    return ""


def parse_value(name: str, text: str) -> Any:
    """The value of a field as its option takes it. Raises `InvalidRequest`."""
    if name in INTEGERS:
        return _number(name, text, int)
    if name in NUMBERS or name == "embedding_bias_weights":
        return _number(name, text, float)
    if name in FLAGS:
        if text not in ("true", "false"):
            raise must_be(name, "true or false", text)
        return text == "true"
    if name in ("tools", "guided_decoding_guide") and text.startswith("@"):
        text = read_text(Path(text[1:]), name)
    if name == "tools":
        try:
            json.loads(text)
        except ValueError as error:
            raise InvalidRequest(f"tools must be JSON, not {text!r:.60}: {error}") from error
    return check_text(name, text)


def check_text(what: str, text: str) -> str:
    """Returns the text. Raises `InvalidRequest` if the command line was not valid UTF-8."""
    if any("\ud800" <= character <= "\udfff" for character in text):
        raise must_be(what, "UTF-8", text)
    return text


def read_text(path: Path, what: str) -> str:
    """A file's text. Raises `InvalidRequest`."""
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        reason = error.strerror or error
        raise InvalidRequest(f"{what} must be a readable file, not @{path}: {reason}") from error
    except UnicodeDecodeError as error:
        raise InvalidRequest(f"{what} must be a UTF-8 file, and @{path} is not") from error


def sampling_params(given: argparse.Namespace, open_ended: bool = False) -> SamplingParams:
    """Read the options of `add_sampling_options`. Raises `InvalidRequest` for a wrong value.

    `open_ended`: without --max-tokens an answer may fill the context.
    """
    names = (each.name for each in fields(SamplingParams))
    values = {name: getattr(given, name) for name in names}
    chosen = {name: value for name, value in values.items() if value is not None}
    return SamplingParams(**({"max_tokens": None} if open_ended else {}) | chosen)


def _metavar(name: str) -> str:
    if name in INTEGERS:
        return "N"
    if name in NUMBERS or name == "embedding_bias_weights":
        return "X"
    return {"guided_decoding_guide_type": "TYPE", "tools": "JSON"}.get(name, "TEXT")


def _option_value(name: str, text: str) -> Any:
    try:
        return parse_value(name, text)
    except InvalidRequest as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def _number(name: str, text: str, kind: type[int] | type[float]) -> int | float:
    try:
        return kind(text)
    except ValueError as error:
        raise must_be(name, described(name), text) from error


def _seconds(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"must be seconds above 0, not {text!r:.60}")
    return value


def _header(text: str) -> tuple[str, str]:
    # No message repeats a mistyped header: it may be a secret.
    name, mark, value = text.partition("=")
    if not mark:
        raise argparse.ArgumentTypeError("must be NAME=VALUE, and one has no =")
    if not HEADER_NAME.fullmatch(name):
        raise argparse.ArgumentTypeError("the name before the = must be of letters, digits and -_.")
    if not (value.isascii() and value.isprintable()):
        raise argparse.ArgumentTypeError(f"the value of {name} must be printable ASCII")
    return name, value
