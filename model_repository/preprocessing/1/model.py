"""Triton's door to room 1: text tensors to `RequestPreparation`, token ids to tensors."""

from __future__ import annotations

import traceback
from pathlib import Path
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils
from request_preparation import InvalidPrompt, PreparationError, RequestPreparation


class TritonPythonModel:
    """Stateless; requests may come batched."""

    def initialize(self, args: dict[str, str]) -> None:
        """Load the tokenizer beside this file."""
        try:
            self._preparation = RequestPreparation(Path(__file__).with_name("engine"))
        except PreparationError as error:
            raise pb_utils.TritonModelException(str(error)) from None

    def execute(self, requests: list[Any]) -> list[Any]:
        """One response a request."""
        return [self._respond(request) for request in requests]

    def _respond(self, request: Any) -> Any:
        try:
            prompt = self._preparation.prepare(
                _value(request, "QUERY"),
                _value(request, "MESSAGES"),
                _count(request, "REQUEST_OUTPUT_LEN"),
            )
        except InvalidPrompt as error:
            return _refusal(str(error), pb_utils.TritonError.INVALID_ARG)
        except Exception:  # a defect of ours: the log gets the trace, the caller a sentence
            pb_utils.Logger.log_error(traceback.format_exc())
            return _refusal("the prompt could not be prepared", pb_utils.TritonError.INTERNAL)
        outputs = {
            "INPUT_ID": [prompt.token_ids],
            "REQUEST_INPUT_LEN": [[len(prompt.token_ids)]],
            "REQUEST_OUTPUT_LEN": [[prompt.max_tokens]],
        }
        return pb_utils.InferenceResponse(
            [pb_utils.Tensor(name, np.array(value, np.int32)) for name, value in outputs.items()]
        )


def _refusal(message: str, code: int) -> Any:
    return pb_utils.InferenceResponse(error=pb_utils.TritonError(message, code))


def _count(request: Any, name: str) -> int | None:
    value = _value(request, name)
    return None if value is None else int(value)


def _value(request: Any, name: str) -> Any:
    """The one element of a [1, 1] tensor, None if the request lacks it."""
    tensor = pb_utils.get_input_tensor_by_name(request, name)
    if tensor is None:
        return None
    values = tensor.as_numpy().reshape(-1)
    if len(values) != 1:
        raise InvalidPrompt(f"{name} holds {len(values)} values, allowed is 1")
    return values[0]
