"""vLLM's AsyncLLM on its own asyncio loop. It keeps its queue and its priorities itself."""

from __future__ import annotations

import contextlib
import time
from typing import Any

from token_engine.async_loop import AsyncLoop, Job
from token_engine.interface import FinishReason, GenerationRequest, TokenLogprob
from token_engine.library_results import (
    ODDITIES,
    Gain,
    IncompleteResponse,
    RefusedRequest,
    epoch_ns,
    kind_and_message,
    read_logprobs,
    readable,
)
from token_engine.vllm_runtime.library import Library

UNLIMITED = 2**31
FINISH_REASONS: dict[str, FinishReason] = {"stop": "stop", "length": "length"}


class StepStats:
    """The scheduler's figures of its last step; one of vLLM's stat loggers.

    It does not inherit from vLLM's `StatLoggerBase`, so that this file imports without vLLM.
    """

    def __init__(self) -> None:
        self.running = 0
        self.kv_usage = 0.0
        self.prefix_queries = 0  # prompt tokens that were looked up, since the start
        self.prefix_hits = 0  # of these, those found in the cache
        self.last_sign = time.monotonic()

    def __call__(self, vllm_config: Any, engine_index: int = 0) -> StepStats:
        """vLLM calls it as a factory of stat loggers."""
        return self

    def record(
        self,
        scheduler_stats: Any,
        iteration_stats: Any,
        mm_cache_stats: Any = None,
        engine_idx: int = 0,
    ) -> None:
        """Called after every step. An exception here would end vLLM's engine."""
        self.last_sign = time.monotonic()
        with contextlib.suppress(*ODDITIES):
            if scheduler_stats is not None:
                self.running = scheduler_stats.num_running_reqs
                self.kv_usage = scheduler_stats.kv_cache_usage
                self.prefix_queries += scheduler_stats.prefix_cache_stats.queries
                self.prefix_hits += scheduler_stats.prefix_cache_stats.hits

    def log(self) -> None:
        """Nothing is logged."""

    def log_engine_initialized(self) -> None:
        """Nothing is logged."""

    def record_sleep_state(self, is_awake: int = 0, level: int = 0) -> None:
        """It never sleeps."""


class VllmLoop(AsyncLoop):
    """See `AsyncLoop`. `load` comes before anything else."""

    library = "vLLM"

    def __init__(self, library: Library, hang_timeout_s: float) -> None:
        self._library = library
        self.refusals = library.request_errors
        self._llm: Any = None
        self.step_stats = StepStats()
        super().__init__(UNLIMITED, hang_timeout_s)

    def load(self, arguments: dict[str, Any]) -> Any:
        """Make the `AsyncLLM`; raises whatever it raises.

        Not on the loop's thread: vLLM's processes die with the thread that started them
        (`engine_process.py`), and the loop's thread ends before they are stopped.
        """
        self._llm = self._library.async_llm.from_engine_args(
            self._library.engine_args(**arguments), stat_loggers=[self.step_stats]
        )
        return self._llm

    # From here on everything runs on the loop's thread.

    def _is_healthy(self) -> bool:
        self._last_sign = max(self._last_sign, self.step_stats.last_sign)
        return self._llm is None or not self._llm.errored

    def _abort_job(self, job: Job) -> None:
        self._help(self._abort_until_gone(job, self._tell_abort))

    async def _tell_abort(self, job: Job) -> None:
        await self._llm.abort(str(job.request.key))

    async def _generate(self, job: Job) -> None:
        try:
            await self._read(job)
        except self._library.failures as error:
            cause = error.__cause__ or error
            if isinstance(cause, self.refusals):
                raise cause from error
            guide = job.request.guide
            if guide is not None and isinstance(cause, (*ODDITIES, RecursionError)):
                # The guide is the only text that vLLM got.
                said = f"guided_decoding_guide is refused by vLLM: {kind_and_message(cause)}"
                raise RefusedRequest(said) from error
            said = f"vLLM failed at the request ({kind_and_message(cause)})"
            raise IncompleteResponse(said) from error

    async def _read(self, job: Job) -> None:
        request = job.request
        stream = self._llm.generate(
            self._library.tokens_input(list(request.prompt_ids)),
            job.params,
            str(request.key),
            priority=request.priority,
        )
        async with contextlib.aclosing(stream):  # closing it early aborts the request
            async for output in stream:
                self._last_sign = time.monotonic()
                job.accepted = True
                if job.cancelled:
                    continue
                gain = readable(self.library, read_gain, output, request)
                job.made += gain.token_ids
                if gain.finish_reason == "error" and request.guide and not job.made:
                    # The scheduler reports no reason for a guide that does not compile.
                    raise RefusedRequest("guided_decoding_guide cannot be compiled by vLLM")
                if gain.token_ids or gain.finish_reason is not None:
                    self._put(job, gain.as_delta(request.key, gain.first_scheduled_ns))
                if gain.finish_reason is not None:
                    return
        if not job.cancelled:
            raise IncompleteResponse("vLLM ended the request without a reason")


def read_gain(output: Any, request: GenerationRequest) -> Gain:
    """Read a `RequestOutput` of the kind DELTA; raises `IncompleteResponse`.

    The token that stopped the request is the last of the tokens.
    """
    completion = output.outputs[0]
    tokens = tuple(completion.token_ids)
    said = completion.finish_reason
    end_id = -1
    if said == "stop" and tokens and tokens[-1] in request.end_ids:
        tokens, end_id = tokens[:-1], tokens[-1]
    logprobs: tuple[TokenLogprob, ...] = ()
    if request.logprobs is not None:
        logprobs = read_logprobs(tokens, completion.logprobs or (), request.logprobs, "vLLM")
    if said is None:
        return Gain(tokens, logprobs)
    reason = FINISH_REASONS.get(said, "error")
    error = "" if said in FINISH_REASONS else f"vLLM ended the request: {said}"
    scheduled = getattr(output.metrics, "scheduled_ts", 0.0)
    first_scheduled_ns = epoch_ns(scheduled) if scheduled else 0
    return Gain(tokens, logprobs, reason, error, first_scheduled_ns, end_id)
