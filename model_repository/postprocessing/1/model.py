"""Triton's door to room 3: token tensors to `TokenText`, text to a tensor."""

from __future__ import annotations

import os
import time
import traceback
from collections import OrderedDict, deque
from pathlib import Path
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils
from token_text import TokenIdError, TokenText

# Asking Triton costs as much as decoding a token.
ASK_INTERVAL_S = 0.1
HOLD_S = 5.0


class TritonPythonModel:
    """Stateless: requests may come batched, in any order, from any stream."""

    def initialize(self, args: dict[str, str]) -> None:
        """Read the token table beside this file."""
        self._cancellations = Cancellations()
        table = Path(__file__).parent / "engine" / "token_bytes.npz"
        try:
            self._text = TokenText(table)
        except (OSError, KeyError, ValueError) as error:
            raise pb_utils.TritonModelException(
                f"the token table {table} cannot be read ({error}); build it with 'make engine'"
            ) from None
        _tell_serve("postprocessing.loaded")

    def execute(self, requests: list[Any]) -> list[Any]:
        """One response a request."""
        for request in requests:
            self._cancellations.look_at(request)
        return [self._respond(request) for request in requests]

    def _respond(self, request: Any) -> Any:
        tokens = _array(request, "TOKENS_BATCH")  # int32 [batch, beams, tokens]
        lengths = _array(request, "SEQUENCE_LENGTH")  # int32 [batch, beams]
        carry = _array(request, "TEXT_CARRY")  # bytes [batch, 1], optional
        hold = _array(request, "TEXT_HOLD")  # int32 [batch, 1], optional
        keep = _array(request, "TEXT_KEEP_SPECIAL")  # bool [batch, 1], optional
        try:
            texts = self._texts(tokens, lengths, carry, hold, keep)
        except TokenIdError as error:
            return _refusal(str(error), pb_utils.TritonError.INVALID_ARG)
        except Exception:  # our own bug: the log gets the trace, the caller a sentence
            pb_utils.Logger.log_error(traceback.format_exc())
            return _refusal("the tokens could not be decoded", pb_utils.TritonError.INTERNAL)
        # One dimension [sequences], as upstream: its clients index it so.
        return pb_utils.InferenceResponse([pb_utils.Tensor("OUTPUT", np.array(texts, object))])

    def _texts(self, tokens: Any, lengths: Any, carry: Any, hold: Any, keep: Any) -> list[bytes]:
        _check_lengths(tokens, lengths)
        texts = []
        for row in range(len(tokens)):
            start = b"" if carry is None else bytes(carry[row, 0])
            end = 0 if hold is None else int(hold[row, 0])
            special = keep is not None and bool(keep[row, 0])
            for ids, length in zip(tokens[row], lengths[row], strict=True):
                text = self._text.decode(ids[:length].tolist(), start, end, special)
                texts.append(text.encode())
        return texts


def _tell_serve(sign: str) -> None:
    """For serve.py, which restarts a server whose models make no progress."""
    folder = os.environ.get("LLAMA_FP4_DRAIN_DIRECTORY")
    if folder:
        Path(folder, sign).touch()


def _check_lengths(tokens: Any, lengths: Any) -> None:
    for name, array in (("TOKENS_BATCH", tokens), ("SEQUENCE_LENGTH", lengths)):
        if array is None:
            raise TokenIdError(f"{name} is missing, it is required")
    batch, beams, longest = tokens.shape
    if lengths.shape != (batch, beams) or ((lengths < 0) | (lengths > longest)).any():
        raise TokenIdError(
            f"SEQUENCE_LENGTH is {str(lengths.tolist())[:60]} and must be one count of 0 to "
            f"{longest} for each of the {batch} x {beams} sequences of TOKENS_BATCH"
        )


def _refusal(message: str, code: int) -> Any:
    return pb_utils.InferenceResponse(error=pb_utils.TritonError(message, code))


class Cancellations:
    """Passes a client's cancellation on to room 2.

    Triton reports it only to the next step of an ensemble request, never to the one that runs. The
    next step is this room; so it asks, and stops the stream as upstream's clients do.
    """

    def __init__(self) -> None:
        self._calls: deque[tuple[float, Any]] = deque()  # when each was made, and the call itself
        self._asked: OrderedDict[int, float] = OrderedDict()  # stream key -> when, oldest first

    def look_at(self, request: Any) -> None:
        """Ask whether the request's stream is cancelled, at most once in ASK_INTERVAL_S."""
        key_tensor = _array(request, "STREAM_KEY")
        if key_tensor is None:
            return
        key, now = int(key_tensor.reshape(-1)[0]), time.monotonic()
        # A stream that is older than the interval may be asked again: what is older is forgotten.
        while self._asked and now - next(iter(self._asked.values())) > ASK_INTERVAL_S:
            self._asked.popitem(last=False)
        if key not in self._asked:
            self._asked[key] = now
            if request.is_cancelled():
                self._stop(key, now)

    def _stop(self, key: int, now: float) -> None:
        stop = pb_utils.InferenceRequest(
            model_name="tensorrt_llm",
            requested_output_names=["sequence_length"],
            inputs=[pb_utils.Tensor("stop", np.array([[True]]))],
            parameters={"stream_key": key},
        )
        responses = stop.exec(decoupled=True)
        # tensorrt_llm_bls/1/model.py says why a call must be kept for a while.
        while self._calls and now - self._calls[0][0] > HOLD_S:
            self._calls.popleft()
        self._calls.append((now, responses))
        for response in responses:
            if response.has_error():
                message = response.error().message()
                pb_utils.Logger.log_warn(f"stream {key} was not stopped: {message}")


def _array(request: Any, name: str) -> Any:
    tensor = pb_utils.get_input_tensor_by_name(request, name)
    return None if tensor is None else tensor.as_numpy()
