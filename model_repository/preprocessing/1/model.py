"""Triton's door to room 1: text tensors to `RequestPreparation`, token ids to tensors."""

from __future__ import annotations

import os
import traceback
from pathlib import Path
from typing import Any

import triton_python_backend_utils as pb_utils
from request_preparation import (
    InvalidPrompt,
    PreparationError,
    Refusal,
    RequestPreparation,
    check_parameters,
    wants_named_errors,
)


class TritonPythonModel:
    """Stateless; a request may hold a batch of prompts."""

    def initialize(self, args: dict[str, str]) -> None:
        """Load the tokenizer beside this file."""
        try:
            self._preparation = RequestPreparation(Path(__file__).with_name("engine"))
        except PreparationError as error:
            raise pb_utils.TritonModelException(str(error)) from None
        _tell_serve("preprocessing.loaded")

    def execute(self, requests: list[Any]) -> list[Any]:
        """One response a request."""
        return [self._respond(request) for request in requests]

    def _respond(self, request: Any) -> Any:
        named_errors = False
        try:
            parameters = _parameters(request)
            named_errors = wants_named_errors(parameters)
            check_parameters(parameters)
            arrays = {tensor.name(): tensor.as_numpy() for tensor in request.inputs()}
            outputs = self._preparation.prepare(arrays, set(request.requested_output_names()))
        except Refusal as error:
            return _refusal(str(error), error.code, named_errors)
        except Exception:  # our own bug: the log gets the trace, the caller a sentence
            pb_utils.Logger.log_error(traceback.format_exc())
            return _refusal("the prompt could not be prepared", "INTERNAL", named_errors)
        return pb_utils.InferenceResponse(
            [pb_utils.Tensor(name, array) for name, array in outputs.items()]
        )


def _tell_serve(sign: str) -> None:
    """For serve.py, which restarts a server whose models make no progress."""
    folder = os.environ.get("LLAMA_FP4_DRAIN_DIRECTORY")
    if folder:
        Path(folder, sign).touch()


def _parameters(request: Any) -> str:
    """The request parameters as JSON; raises `InvalidPrompt`."""
    try:
        return str(request.parameters())
    except UnicodeDecodeError:
        raise InvalidPrompt("a request parameter must be UTF-8 text") from None


def _refusal(message: str, code: str, named: bool) -> Any:
    message = f"[{code}] {message}" if named else message
    error = pb_utils.TritonError(message, getattr(pb_utils.TritonError, code))
    return pb_utils.InferenceResponse(error=error)
