"""The options that commands share: where the server is, and every field of `SamplingParams`."""

from __future__ import annotations

import argparse
import functools
import json
import math
import os
import re
from dataclasses import fields
from pathlib import Path
from typing import Any

from llama_fp4.client import Client
from llama_fp4.errors import InvalidRequest, must_be
from llama_fp4.sampling import FLAGS, GUIDES, INTEGERS, LISTS, NUMBERS, SamplingParams, described
from llama_fp4.settings import Keepalive, Timeouts, Tls
from llama_fp4.transports.base import Transport
from llama_fp4.transports.choose import open_transport

URL_VARIABLE = "LLAMA_FP4_URL"
CONNECT_S = 10.0  # for the first call, where --timeout leaves as much
DEFAULT_URL = "127.0.0.1:8001"
HEADER_NAME = re.compile(r"[A-Za-z0-9_.-]+")
LARGEST_INT32, LARGEST_UINT64 = 2**31 - 1, 2**64 - 1
SPELLED = {LARGEST_INT32: "2^31-1", LARGEST_UINT64: "2^64-1"}
# What the dataclass and model_repository/TENSORS.md say of each, in a few words.
TEXTS = {
    "max_tokens": "the answer's length at most",
    "min_tokens": "no end before",
    "temperature": "0 is greedy",
    "top_k": "choose among so many; 0: all",
    "top_p": "choose among this share",
    "min_p": "least share of the likeliest's probability",
    "seed": "the same seed, the same answer",
    "stop_words": "end the answer there; may be repeated",
    "bad_words": "never write this; may be repeated",
    "include_stop_str_in_output": "keep the stop word",
    "end_id": "the token that ends an answer; -1: none",
    "ignore_eos": "go on to --max-tokens",
    "skip_special_tokens": "leave special tokens out of the text",
    "exclude_input_in_output": "leave the prompt out of the text",
    "embedding_bias_words": "make likelier or less likely; may be repeated",
    "embedding_bias_weights": "by so much: one for each of those words",
    "guided_decoding_guide_type": "what the guide is",
    "guided_decoding_guide": "the answer follows it; @FILE reads a file",
    "tools": "JSON in OpenAI's form; @FILE reads a file",
    "priority": "the lowest starts first",
    "timeout_ms": "the text ends after so long on the server",
}
OPTIONS = {"stop_words": "--stop"}


def add_server_options(parser: argparse.ArgumentParser, model: bool = True) -> None:
    """Where the server is, who one is, and how long to wait."""
    group = parser.add_argument_group("server")
    address = f"host:port (gRPC) or http://host:port (default: ${URL_VARIABLE} or {DEFAULT_URL})"
    group.add_argument("--url", metavar="URL", help=address)
    if model:
        group.add_argument("--model", default="ensemble", metavar="NAME", help="default: ensemble")
    group.add_argument(
        "--timeout", type=_seconds, metavar="SECONDS", help="of the whole request (default: none)"
    )
    group.add_argument("--tls-ca", metavar="FILE", help="PEM of whom to trust; encrypts")
    group.add_argument("--tls-cert", metavar="FILE", help="PEM of who one is")
    group.add_argument("--tls-key", metavar="FILE", help="PEM of the key of --tls-cert")
    group.add_argument("--tls-name", default="", metavar="NAME", help="name in the certificate")
    group.add_argument(
        "--header",
        action="append",
        default=[],
        type=_header,
        metavar="NAME=VALUE",
        help="goes with every call and is never printed; may be repeated",
    )
    group.add_argument("--json", action="store_true", help="JSON instead of text, errors too")


def add_sampling_options(parser: argparse.ArgumentParser, max_tokens: str = "") -> None:
    """One option for every field of `SamplingParams`; `max_tokens`: what its default is."""
    group = parser.add_argument_group("sampling, left to the server if not given")
    for field in fields(SamplingParams):
        name = field.name
        option = OPTIONS.get(name, "--" + name.replace("_", "-"))
        text = "; ".join(part for part in (TEXTS.get(name, ""), allowed(name)) if part)
        if name == "max_tokens":
            text += f" (default: {max_tokens or field.default})"
        more: dict[str, Any] = {"dest": name, "default": None, "help": text.replace("%", "%%")}
        if name in FLAGS:
            group.add_argument(option, action=argparse.BooleanOptionalAction, **more)
            continue
        kind = functools.partial(_option_value, name)
        action = "append" if name in LISTS else "store"
        group.add_argument(option, action=action, type=kind, metavar=_metavar(name), **more)


def allowed(name: str) -> str:
    """The type and the range of a field, as a person reads it; "" for any text."""
    bounds = INTEGERS.get(name) or NUMBERS.get(name)
    if name == "guided_decoding_guide_type":
        return ", ".join(GUIDES)
    if bounds is None:
        return "any number" if name == "embedding_bias_weights" else ""
    kind = "integer" if name in INTEGERS else "number"
    low, high = (SPELLED.get(int(b), f"{b:g}") if math.isfinite(b) else "" for b in bounds)
    if low and high:
        return f"{kind}, {low} to {high}"
    return f"{kind}, at most {high}" if high else f"any {kind}"


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
    """The text, if it can be sent: bytes of the command line that are no UTF-8 cannot."""
    if any("\ud800" <= character <= "\udfff" for character in text):
        raise must_be(what, "UTF-8", text)
    return text


def read_text(path: Path, what: str) -> str:
    """A file's text. Raises `InvalidRequest`."""
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        reason = error.strerror or error
        raise InvalidRequest(f"{what} is @{path}, which cannot be read: {reason}") from error
    except UnicodeDecodeError as error:
        raise InvalidRequest(f"{what} is @{path}, which must be UTF-8 and is not") from error


def sampling_params(options: argparse.Namespace, open_ended: bool = False) -> SamplingParams:
    """Those that were given. Raises `InvalidRequest` for what is out of range.

    `open_ended`: without --max-tokens an answer is as long as the context has room for.
    """
    names = (field.name for field in fields(SamplingParams))
    given = {name: getattr(options, name) for name in names}
    chosen = {name: value for name, value in given.items() if value is not None}
    return SamplingParams(**({"max_tokens": None} if open_ended else {}) | chosen)


def connection(options: argparse.Namespace) -> dict[str, Any]:
    """The arguments of both clients. Raises `InvalidRequest`."""
    url = options.url or os.environ.get(URL_VARIABLE) or DEFAULT_URL
    files = {"ca": options.tls_ca, "cert": options.tls_cert, "key": options.tls_key}
    secured = any(files.values()) or options.tls_name
    return {
        "url": url,
        "tls": Tls(**files, server_name=options.tls_name) if secured else None,
        "headers": dict(options.header),
        "timeouts": Timeouts(min(options.timeout or CONNECT_S, CONNECT_S), total=options.timeout),
    }


def open_client(options: argparse.Namespace, **more: Any) -> Client:
    """The client that the options describe."""
    return Client(model=options.model, token_ids=False, **{**connection(options), **more})


def transport_of(options: argparse.Namespace) -> Transport:
    """A connection without a client, to ask for what clients do not ask."""
    given = connection(options)
    connect_s = given["timeouts"].connect
    transport: Transport = open_transport(
        given["url"], False, given["tls"], given["headers"], Keepalive(), connect_s
    )
    return transport


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
    # Any of it may be a secret, if it is mistyped: no sentence has it in it.
    name, mark, value = text.partition("=")
    if not mark:
        raise argparse.ArgumentTypeError("must be NAME=VALUE, and one has no =")
    if not HEADER_NAME.fullmatch(name):
        raise argparse.ArgumentTypeError(
            "a name has other characters than letters, digits and -_. before the ="
        )
    if not (value.isascii() and value.isprintable()):
        raise argparse.ArgumentTypeError(f"{name}'s value is not of printable ASCII")
    return name, value
