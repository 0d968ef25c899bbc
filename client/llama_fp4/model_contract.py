"""The tensors of a model: ours, upstream's ensemble and bls, or upstream's llmapi model.

The client recognises them by the model's metadata, so that it can speak to each of them and refuse
by name an option that the model does not have.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from textwrap import shorten
from typing import Any

from llama_fp4.answers import ModelMetadata
from llama_fp4.errors import InvalidRequest, UnknownOption, UnsupportedRequest, must_be
from llama_fp4.sampling import SamplingParams, as_json

Prompt = str | Sequence[Mapping[str, Any]]


@dataclass(frozen=True)
class Tensor:
    """One input of a request: its values in order, in one of Triton's datatypes."""

    name: str
    datatype: str
    shape: tuple[int, ...]
    values: Sequence[Any]


@dataclass(frozen=True)
class Request:
    """One request, the same for every transport."""

    model: str
    id: str
    tensors: tuple[Tensor, ...]
    parameters: Mapping[str, bool | str | int]
    outputs: tuple[str, ...]  # requested by name
    cumulative: bool = False  # each response carries the whole text so far
    stoppable: bool = False  # a `stop` request with its id to our room 2 ends it


@dataclass(frozen=True)
class Contract:
    """How one kind of model names the client's options, and which inputs it always needs."""

    name: str
    streaming: str  # the input that asks for a response for each token
    renamed: Mapping[str, str] = field(default_factory=dict)  # option -> input
    always: Mapping[str, Any] = field(
        default_factory=dict
    )  # inputs sent unless the caller chose another value
    parameters: Mapping[str, bool | str | int] = field(default_factory=dict)
    outputs: tuple[str, ...] = ()  # requested if the model has them
    cumulative: bool = False
    stoppable: bool = False


OUTPUTS = ("text_output", "num_output_tokens", "num_input_tokens", "finish_reason", "stop_reason")
OURS = Contract(
    "ours",
    "stream",
    always={"exclude_input_in_output": True},  # a unary repository echoes as upstream does
    parameters={"named_errors": True},
    outputs=OUTPUTS,
    stoppable=True,
)
# By default upstream echoes the prompt and does not count tokens. It may end a stream with a
# response that has only the final flag, which Triton sends only on request.
EMPTY_FINAL = {"triton_enable_empty_final_response": True}
UPSTREAM = Contract(
    "upstream",
    "stream",
    always={
        "exclude_input_in_output": True,
        "return_num_input_tokens": True,
        "return_num_output_tokens": True,
    },
    parameters=EMPTY_FINAL,
    outputs=OUTPUTS,
)
LLMAPI = Contract(
    "llmapi",
    "streaming",
    renamed={
        "stop_words": "sampling_param_stop",
        "exclude_input_in_output": "sampling_param_exclude_input_from_output",
        **{
            name: f"sampling_param_{name}"
            for name in (
                "max_tokens",
                "temperature",
                "top_k",
                "top_p",
                "frequency_penalty",
                "presence_penalty",
                "seed",
                "return_perf_metrics",
            )
        },
    },
    always={
        "sampling_param_exclude_input_from_output": True,
        "return_finish_reason": True,
        "return_stop_reason": True,
    },
    parameters=EMPTY_FINAL,
    outputs=OUTPUTS,
    cumulative=True,
)


class Model:
    """A model that takes text: its contract and its inputs, both from its metadata."""

    def __init__(self, metadata: ModelMetadata) -> None:
        self.metadata = metadata
        self.decoupled: bool | None = None  # not known yet
        self._inputs = {tensor.name: tensor for tensor in metadata.inputs}
        self.contract = _contract(metadata.name, self._inputs)
        known = {tensor.name for tensor in metadata.outputs}
        self._outputs = tuple(name for name in self.contract.outputs if name in known)
        self._has_ids = "token_ids" in known and "return_token_ids" in self._inputs
        self._has_logprobs = "top_logprobs" in known

    def request(
        self,
        prompt: Prompt,
        params: SamplingParams,
        request_id: str,
        stream: bool,
        token_ids: bool = False,
    ) -> Request:
        """The request for this model. Raises `UnknownOption` for an option it has no input for."""
        contract = self.contract
        if params.max_tokens is None and contract is UPSTREAM:
            raise must_be(
                "max_tokens", f"an integer for upstream's model {self.metadata.name}", None
            )
        options = {contract.renamed.get(n, n): (n, v) for n, v in params.given().items()}
        tensors = [self._prompt(prompt)]
        if contract.streaming in self._inputs:
            tensors.append(self._tensor(contract.streaming, [bool(stream)]))
        for name, (option, values) in options.items():
            if name not in self._inputs:
                raise self._unknown(option)
            tensors.append(self._tensor(name, values))
        for name, value in contract.always.items():
            if name in self._inputs and name not in options:
                tensors.append(self._tensor(name, [value]))
        outputs = self._outputs
        if token_ids and self._has_ids:
            tensors.append(self._tensor("return_token_ids", [True]))
            outputs += ("token_ids",)
        if params.logprobs is not None and self._has_logprobs:
            outputs += ("top_logprobs",)
        return Request(
            self.metadata.name,
            request_id,
            tuple(tensors),
            contract.parameters,
            outputs,
            contract.cumulative,
            contract.stoppable,
        )

    def _prompt(self, prompt: Prompt) -> Tensor:
        if isinstance(prompt, str):
            return self._tensor("text_input", [prompt])
        if isinstance(prompt, bytes) or not isinstance(prompt, Sequence):
            raise must_be("the prompt", "a string or a list of messages", prompt)
        if "messages" not in self._inputs:
            raise self._unknown("messages")
        return self._tensor("messages", [_messages(prompt)])

    def _tensor(self, name: str, values: Sequence[Any]) -> Tensor:
        info = self._inputs[name]
        shape = (1, len(values)) if len(info.shape) > 1 else (len(values),)
        return Tensor(name, info.datatype, shape, values)

    def _unknown(self, option: str) -> UnknownOption:
        back = {wire: name for name, wire in self.contract.renamed.items()}
        known = ", ".join(sorted(back.get(name, name) for name in self._inputs))
        return UnknownOption(
            f"{option} is not an input of the model {self.metadata.name}, which has {known}"
        )


def _messages(prompt: Sequence[Any]) -> str:
    """The messages as JSON. The server checks everything but their roles."""
    if not prompt:
        raise InvalidRequest("messages must hold at least one message, not none")
    for message in prompt:
        if not isinstance(message, Mapping) or not isinstance(message.get("role"), str):
            raise must_be("each of messages", "a mapping with a role", message)
    try:
        return as_json([dict(message) for message in prompt])
    except (TypeError, ValueError, RecursionError) as error:
        raise InvalidRequest(f"messages must be what JSON can hold: {error}") from error


def _contract(model: str, inputs: Mapping[str, Any]) -> Contract:
    if "text_input" in inputs:
        if "messages" in inputs:
            return OURS
        if "sampling_param_max_tokens" in inputs:
            return LLMAPI
        if "max_tokens" in inputs:
            return UPSTREAM
    known = shorten(", ".join(sorted(inputs)) or "nothing", 100)
    raise UnsupportedRequest(
        f"the model {model} must have the inputs text_input and either max_tokens or "
        f"sampling_param_max_tokens, not {known}"
    )
