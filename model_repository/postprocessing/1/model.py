"""Triton's door to room 3: token tensors to `TokenText`, text to a tensor."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils

from token_text import TokenIdError, TokenText


class TritonPythonModel:
    """Stateless: requests may come batched, in any order, from any stream."""

    def initialize(self, args: dict[str, str]) -> None:
        """Read the token table beside this file."""
        table = Path(__file__).parent / "engine" / "token_bytes.npz"
        try:
            self._text = TokenText(table)
        except (OSError, KeyError, ValueError) as error:
            raise pb_utils.TritonModelException(
                f"the token table {table} cannot be read ({error}); build it with 'make engine'"
            ) from None

    def execute(self, requests: list[Any]) -> list[Any]:
        """One response a request."""
        return [self._respond(request) for request in requests]

    def _respond(self, request: Any) -> Any:
        tokens = _array(request, "TOKENS_BATCH")  # int32 [batch, beams, tokens]
        lengths = _array(request, "SEQUENCE_LENGTH")  # int32 [batch, beams]
        carry = _array(request, "TEXT_CARRY")  # bytes [batch, 1], optional
        hold = _array(request, "TEXT_HOLD")  # int32 [batch, 1], optional
        texts = []
        try:
            for row in range(len(tokens)):
                start = b"" if carry is None else bytes(carry[row, 0])
                end = 0 if hold is None else int(hold[row, 0])
                for ids, length in zip(tokens[row], lengths[row], strict=True):
                    texts.append(self._text.decode(ids[:length].tolist(), start, end))
        except TokenIdError as error:
            return pb_utils.InferenceResponse(
                error=pb_utils.TritonError(str(error), pb_utils.TritonError.INVALID_ARG)
            )
        shape = (len(tokens), -1) if len(tokens) else (0, 1)
        output = np.array([text.encode() for text in texts], object).reshape(shape)
        return pb_utils.InferenceResponse([pb_utils.Tensor("OUTPUT", output)])


def _array(request: Any, name: str) -> Any:
    tensor = pb_utils.get_input_tensor_by_name(request, name)
    return None if tensor is None else tensor.as_numpy()
