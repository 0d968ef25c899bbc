"""What the server returns: chunks while it generates, and the whole answer."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Chunk:
    """One response. The texts of a request's chunks, joined, are its answer."""

    text: str
    token_ids: tuple[int, ...]  # () if not requested, or if the server has none
    index: int  # from 0
    final: bool
    finish_reason: str  # "" before the final chunk; stop, length, cancelled or timeout
    stop_reason: str  # the stop word that ended the text, else ""
    num_output_tokens: int  # of this chunk; 0 where the server does not count
    num_input_tokens: int  # of the whole prompt; 0 before the final chunk
    top_logprobs: str = ""  # JSON, one object for each token, if `logprobs` was given


@dataclass(slots=True)
class Timing:
    """When things happened, in seconds of `time.perf_counter`; 0 before they have."""

    sent_at: float = 0.0  # of the last attempt
    first_token_at: float = 0.0  # the first response
    last_token_at: float = 0.0
    ended_at: float = 0.0
    attempts: int = 0
    num_output_tokens: int = 0
    num_responses: int = 0

    @property
    def ttft_s(self) -> float | None:
        """TTFT; None before the first token. With a single response the same as `e2e_s`."""
        return self.first_token_at - self.sent_at if self.first_token_at else None

    @property
    def e2e_s(self) -> float | None:
        """From sending the request to its end; None before the end."""
        return self.ended_at - self.sent_at if self.ended_at else None

    @property
    def tpot_s(self) -> float | None:
        """Time per output token after the first response; None with a single response."""
        if self.num_responses < 2:
            return None
        tokens = max(self.num_output_tokens, self.num_responses) - 1
        return (self.last_token_at - self.first_token_at) / tokens


@dataclass(frozen=True)
class Completion:
    """The whole answer to one request; `str(completion)` is its text."""

    text: str
    finish_reason: str
    stop_reason: str
    num_input_tokens: int
    num_output_tokens: int
    token_ids: tuple[int, ...]
    request_id: str
    timing: Timing

    def __str__(self) -> str:
        return self.text


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """One input or output of a model; -1 in the shape means any size."""

    name: str
    datatype: str  # Triton's: BYTES, INT32, FP32, ...
    shape: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class ModelMetadata:
    """A model's inputs and outputs."""

    name: str
    versions: tuple[str, ...]
    platform: str
    inputs: tuple[TensorInfo, ...]
    outputs: tuple[TensorInfo, ...]


@dataclass(frozen=True, slots=True)
class ModelState:
    """One model of the server's repository."""

    name: str
    version: str
    state: str  # READY, UNAVAILABLE, LOADING, ...
    reason: str


@dataclass(frozen=True, slots=True)
class ServerInfo:
    """The server's name, `triton`, and its version, such as 2.51.0."""

    name: str
    version: str


@dataclass(frozen=True, slots=True)
class Health:
    """Whether the server is live, is ready, and has the client's model ready."""

    live: bool
    ready: bool
    model_ready: bool
