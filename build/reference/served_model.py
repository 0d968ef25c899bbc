"""A running server as `verify.py` asks it: for exact token ids, and text, over gRPC.

Built on tritonclient's KServe stubs, since our client knows no token ids.
"""

from __future__ import annotations

import re
import urllib.error
import urllib.request
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import grpc
import numpy as np
import numpy.typing as npt
from host.console import BuildError
from llama_fp4 import Client, LlamaError, Timeouts
from tritonclient.grpc import service_pb2, service_pb2_grpc
from tritonclient.utils import np_to_triton_dtype

READY_TIMEOUT_S = 5.0
REFUSED = ("[INVALID_ARG] ", "[UNSUPPORTED] ")
ENGINE_INFO = re.compile(r"^llama_fp4_engine_info\{(.*)\} ", re.M)
LABEL = re.compile(r'(\w+)="((?:[^"\\]|\\.)*)"')


class RequestRefused(BuildError):
    """The server refused the request as wrong, or as more than its runtime can do."""


@dataclass(frozen=True)
class Generated:
    """An answer in tokens."""

    tokens: list[int]
    logprobs: list[float] | None  # one for each token; None if not requested
    finish_reason: str


@dataclass(frozen=True)
class Text:
    """An answer in text."""

    text: str
    num_input_tokens: int
    finish_reason: str


class ServedModel:
    """One server. Every call raises `BuildError` with a sentence that names the server."""

    def __init__(self, host: str, grpc_port: int, metrics_port: int, timeout_s: float) -> None:
        self.url = f"{host}:{grpc_port}"
        self._metrics = f"{host}:{metrics_port}"
        self._timeout_s = timeout_s
        self._decoupled: bool | None = None  # None: not yet known
        self._stub = service_pb2_grpc.GRPCInferenceServiceStub(grpc.insecure_channel(self.url))

    def check_ready(self) -> None:
        """Raise `BuildError` unless the server and both models are ready."""
        for model in ("tensorrt_llm", "ensemble"):
            try:
                request = service_pb2.ModelReadyRequest(name=model)
                ready = self._stub.ModelReady(request, timeout=READY_TIMEOUT_S).ready
            except grpc.RpcError as error:
                raise BuildError(
                    f"no server of this repository answers at {self.url} ({error.code().name}); "
                    "start it with 'make serve', or give --host and --grpc-port"
                ) from None
            if not ready:
                raise BuildError(
                    f"the server at {self.url} has no ready model {model!r}; "
                    "serve this repository with 'make serve'"
                )

    def engine_info(self) -> dict[str, str]:
        """The labels of the metric that describes the engine; {} if it cannot be read."""
        try:
            with urllib.request.urlopen(
                f"http://{self._metrics}/metrics", timeout=READY_TIMEOUT_S
            ) as response:
                found = ENGINE_INFO.search(response.read().decode())
        except (OSError, ValueError):
            return {}
        return dict(LABEL.findall(found[1])) if found else {}

    def tokens(self, prompt_ids: Sequence[int], count: int, log_probs: bool) -> Generated:
        """`count` greedy tokens after the prompt, end tokens among them."""
        arrays: dict[str, npt.NDArray[Any]] = {
            "input_ids": np.array([prompt_ids], np.int32),
            "input_lengths": np.array([[len(prompt_ids)]], np.int32),
            "request_output_len": np.array([[count]], np.int32),
            "streaming": np.array([[self._streams()]]),
            "exclude_input_in_output": np.array([[True]]),
            "ignore_eos": np.array([[True]]),
        }
        if log_probs:
            arrays["return_log_probs"] = np.array([[True]])
        tokens, logprobs, reason = list[int](), list[float](), ""
        for outputs in self._stream("tensorrt_llm", arrays):
            tokens += np.frombuffer(outputs["output_ids"], np.int32).tolist()
            logprobs += np.frombuffer(outputs.get("output_log_probs", b""), np.float32).tolist()
            reason = outputs.get("finish_reason", b"")[4:].decode()
        expected = len(tokens) if log_probs else 0
        if len(tokens) != count or len(logprobs) != expected:
            raise BuildError(
                f"the server at {self.url} gave {len(tokens)} tokens and {len(logprobs)} "
                f"log-probabilities instead of {count} and {expected} (finish reason {reason!r}); "
                "see its log"
            )
        return Generated(tokens, logprobs if log_probs else None, reason)

    def text(self, prompt: str | list[dict[str, str]], count: int) -> Text:
        """The ensemble's greedy answer of at most `count` tokens to a raw prompt or a chat."""
        try:
            limits = Timeouts(total=self._timeout_s)
            with Client(self.url) as client:
                stream = client.stream(
                    prompt, max_tokens=count, timeouts=limits, stream=self._streams()
                )
                chunks = list(stream)
        except LlamaError as error:
            raise BuildError(self._failed("ensemble", f"{error.code}: {error}")) from None
        text = "".join(chunk.text for chunk in chunks)
        return Text(text, chunks[-1].num_input_tokens, chunks[-1].finish_reason)

    def _streams(self) -> bool:
        """Whether a request may have several responses: not with a repository made --unary."""
        if self._decoupled is None:
            request = service_pb2.ModelConfigRequest(name="tensorrt_llm")
            try:
                found = self._stub.ModelConfig(request, timeout=READY_TIMEOUT_S)
            except grpc.RpcError as error:
                reason = f"{error.code().name}: {error.details()}"
                raise BuildError(self._failed("tensorrt_llm", reason)) from None
            self._decoupled = found.config.model_transaction_policy.decoupled
        return self._decoupled

    def _stream(self, model: str, arrays: dict[str, npt.NDArray[Any]]) -> list[dict[str, bytes]]:
        """The raw outputs by name of each response to one request."""
        request = service_pb2.ModelInferRequest(model_name=model)
        request.parameters["named_errors"].bool_param = True
        for name, array in arrays.items():
            datatype = np_to_triton_dtype(array.dtype)
            request.inputs.add(name=name, datatype=datatype, shape=array.shape)
            request.raw_input_contents.append(array.tobytes())
        try:
            messages = list(self._stub.ModelStreamInfer(iter([request]), timeout=self._timeout_s))
        except grpc.RpcError as error:
            reason = f"{error.code().name}: {error.details()}"
            raise BuildError(self._failed(model, reason)) from None
        for message in messages:
            if message.error_message.startswith(REFUSED):
                reason = message.error_message.partition("] ")[2]
                raise RequestRefused(f"the server at {self.url} refuses it: {reason}")
            if message.error_message:
                raise BuildError(self._failed(model, message.error_message))
        return [_raw_outputs(message.infer_response) for message in messages]

    def _failed(self, model: str, reason: str) -> str:
        return f"{model} at {self.url} failed ({reason}); see the server's log"


def _raw_outputs(response: Any) -> dict[str, bytes]:
    pairs = zip(response.outputs, response.raw_output_contents, strict=True)
    return {output.name: data for output, data in pairs}
