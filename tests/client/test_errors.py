"""The client's errors: which are raised before anything is sent, their tree, codes and names."""

from __future__ import annotations

import dataclasses
from typing import Any

import llama_fp4
import pytest
from llama_fp4 import (
    Client,
    FunctionTransport,
    InvalidRequest,
    LlamaError,
    Retries,
    ServerBusy,
    ServerFailed,
    TensorInfo,
    Timeouts,
    Tls,
    UnsupportedRequest,
)
from llama_fp4.errors import error_of, error_of_message
from llama_fp4.transports.base import METADATA

from tests.support.client_chunks import three

ERRORS = [
    kind
    for kind in vars(llama_fp4).values()
    if isinstance(kind, type) and issubclass(kind, LlamaError)
]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"max_tokens": 0}, "max_tokens must be an integer of at least 1, not 0"),
        ({"max_tokens": True}, "an integer of at least 1, not True"),
        ({"max_tokens": 4.5}, "max_tokens must be an integer of at least 1, not 4.5"),
        ({"max_tokens": 2**31}, "an integer of at most 2\\^31-1, not 2147483648"),
        (
            {"temperature": float("nan")},
            "temperature must be a finite number from 0 to 100, not nan",
        ),
        ({"temperature": -1}, "from 0 to 100, not -1"),
        ({"top_p": 1.5}, "top_p must be a finite number of at most 1, not 1.5"),
        ({"seed": 2**64}, r"seed must be an integer of at most 2\^64-1, not 18446744073709551616"),
        ({"ignore_eos": 1}, "ignore_eos must be True or False, not 1"),
        ({"stop_words": "ab"}, "stop_words must be a list of strings, not 'ab'"),
        ({"stop_words": [1]}, "each of stop_words must be a string, not 1"),
        (
            {"embedding_bias_words": ["a"]},
            "must hold one number for each of the 1 embedding_bias_words, not 0",
        ),
        (
            {"guided_decoding_guide_type": "yaml"},
            "must be one of json, json_schema, regex, ebnf_grammar, choice, not 'yaml'",
        ),
        (
            {"guided_decoding_guide_type": "choice", "guided_decoding_guide": ["a", 1]},
            "each of guided_decoding_guide must be a string, not 1",
        ),
        (
            {"guided_decoding_guide": ["a"]},
            "guided_decoding_guide_type must be choice where guided_decoding_guide is a list",
        ),
        ({"tools": [object()]}, "tools must be what JSON can hold"),
        ({"temprature": 1}, "the option must be one of max_tokens, .*, not 'temprature'"),
    ],
)
def test_wrong_options_are_named_and_nothing_is_sent(options: dict[str, Any], words: str) -> None:
    transport = FunctionTransport(three)
    with Client(transport=transport) as client, pytest.raises(InvalidRequest, match=words):
        client.stream("Hi", **options)
    assert transport.requests == []


@pytest.mark.parametrize("url", ["here", "ftp://a:1", "host:", ":80", "http://host"])
def test_a_wrong_url(url: str) -> None:
    with pytest.raises(InvalidRequest, match="must be host:port"):
        Client(url)


def test_wrong_settings() -> None:
    for make in (
        lambda: Timeouts(total=0),
        lambda: Retries(attempts=0),
        lambda: Retries(pause=-1),
        lambda: Tls(cert="only.pem"),
        lambda: Client("h:1", tls=Tls(ca="/nowhere.pem")),
    ):
        with pytest.raises(InvalidRequest):
            make()


def test_a_model_that_takes_no_text() -> None:
    other = dataclasses.replace(METADATA, inputs=(TensorInfo("image", "FP32", (-1,)),))
    with (
        Client(transport=FunctionTransport(three, other)) as client,
        pytest.raises(UnsupportedRequest, match=r"must have the inputs text_input .* not image"),
    ):
        client.generate("Hi")


def test_the_tree_in_the_docstring_is_the_tree() -> None:
    """Each class has a line under its base, with `(retryable)` where it is."""
    drawing = (llama_fp4.errors.__doc__ or "").split("\n\n")[1].splitlines()
    path: list[str] = []
    drawn = {}
    for line in drawing:
        depth = (len(line) - len(line.lstrip(" │├└─")) - 4) // 4
        name = line.strip(" │├└─").split()[0]
        path[depth:] = [name]
        drawn[name] = (path[depth - 1] if depth else "RuntimeError", "(retryable)" in line)
    truth = {kind.__name__: (kind.__mro__[1].__name__, kind.retryable) for kind in ERRORS}
    assert drawn == truth


def test_codes_become_classes() -> None:
    error = error_of_message("in ensemble 'ensemble', [INVALID_ARG] top_k is -1", "id")
    assert (type(error), error.code, str(error)) == (
        InvalidRequest, "INVALID_ARGUMENT", "top_k is -1",
    )  # fmt: skip
    assert type(error_of("RESOURCE_EXHAUSTED", "")) is ServerBusy
    assert type(error_of("DATA_LOSS", "")) is ServerFailed
    assert error_of_message("something").code == "UNKNOWN"


def test_every_error_is_public() -> None:
    assert {kind.__name__ for kind in ERRORS} <= set(llama_fp4.__all__)
    assert all(hasattr(llama_fp4, name) for name in llama_fp4.__all__)
