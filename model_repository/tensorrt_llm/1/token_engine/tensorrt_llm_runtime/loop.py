"""TensorRT-LLM on its own asyncio loop, and what each of its responses adds to a request.

Requests wait here until its batch has room for them. In its batch they can only wait for KV cache,
in the order of arrival unless `by_priority`. With each response the library returns and changes the
same result object: `token_ids` has all tokens so far, and `token_ids_diff` those of this response,
until the next one is awaited.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any

from token_engine.async_loop import WATCH_S, AsyncLoop, EngineLost, Job
from token_engine.interface import FinishReason, GenerationRequest, Guide, TokenLogprob
from token_engine.library_results import (
    ODDITIES,
    Gain,
    IncompleteResponse,
    RefusedRequest,
    epoch_ns,
    one_line,
    read_logprobs,
    readable,
)
from token_engine.tensorrt_llm_runtime.sampling import Part, first_part, next_part

ABORT_PATIENCE_S = 10.0  # for an aborted request's last response; then its place counts as free
STATS_PAUSE_S = 0.2
# Words of a `RequestError` that the workers report to every request, in lower case: their loop or
# their CUDA context has ended (_torch/pyexecutor/error_classification.py, and CUDA's messages of
# errors after which it must restart).
BROADCASTS = (
    "event loop terminated",
    "cudaerrorillegaladdress",
    "cudaerrorlaunchfailure",
    "device-side assert",
    "hardware stack error",
    "illegal instruction",
    "illegal memory access",
    "misaligned address",
    "uncorrectable ecc error",
    "unrecoverable",
    "unspecified launch failure",
)
# The beginning of the error for a guide that cannot be compiled or followed. The rest may quote it.
GUIDE_ERROR = "guided decoding error"


@dataclass(frozen=True, slots=True)
class KvBlocks:
    """Counts of the whole KV cache, from the library's last report."""

    total: int = 0
    used: int = 0
    prefix_queries: int = 0  # tokens of prompts that were looked up, since the start
    prefix_hits: int = 0  # of these, those found in the cache


class GenerationLoop(AsyncLoop):
    """See `AsyncLoop`."""

    library = "TensorRT-LLM"

    def __init__(
        self,
        llm: Any,
        make_params: Callable[[Part], Any],
        check_guide: Callable[[Guide], None],
        request_error: type[Exception],
        most_running: int,
        hang_timeout_s: float,
        by_priority: bool = False,  # whether the library's own queue is ordered by priority
    ) -> None:
        self._llm = llm
        self._by_priority = by_priority
        self._make_params = make_params
        self._check_guide = check_guide
        self._request_error = request_error
        self.refusals = (request_error, ValueError)
        self._reads_stats = False
        self.kv_blocks = KvBlocks()
        super().__init__(most_running, hang_timeout_s)

    def _is_healthy(self) -> bool:
        healthy = getattr(self._llm, "_check_health", None)
        return healthy is None or bool(healthy())

    def _abort_job(self, job: Job) -> None:
        if job.result is not None:
            self._abort_result(job)
            self._loop.call_later(ABORT_PATIENCE_S, self._give_up, job)

    def _abort_result(self, job: Job) -> None:
        try:
            job.result.abort()
        except ODDITIES:  # of this request; if the executor is gone, the watch sees it
            pass
        except Exception as error:
            self._lose(error)

    def _give_up(self, job: Job) -> None:
        if job.task is not None and not job.task.done():
            job.task.cancel()

    async def _generate(self, job: Job) -> None:
        if job.request.guide is not None:
            # On a thread, because a large schema takes long and must not delay other requests.
            await asyncio.to_thread(self._check_guide, job.request.guide)
        part: Part | None = first_part(job.request)
        while part is not None and not job.cancelled:
            part = await self._run_part(job, part)

    async def _run_part(self, job: Job, part: Part) -> Part | None:
        """Run one generation of the library; returns the next one."""
        prompt = list(part.request.prompt_ids)
        params = self._make_params(part)
        job.result = None
        try:
            # By keyword, because the third positional parameter is a different one.
            job.result = self._llm.generate_async(
                prompt, params, streaming=True, **self._order(job)
            )
            job.accepted = True
            self._start_stats()
            return await self._read_part(job, part)
        except self._request_error as error:
            raise error_of(job, one_line(error)) from error

    async def _read_part(self, job: Job, part: Part) -> Part | None:
        """Read to the end, or until the library has freed a cancelled request."""
        async for _ in job.result:
            self._last_sign = time.monotonic()
            said = getattr(
                job.result, "error", None
            )  # later versions keep the error instead of raising it
            if isinstance(said, str) and said:
                raise self._request_error(said)
            if job.cancelled:
                continue  # until the library has freed it
            gain = readable(self.library, read_gain, job.result.outputs[0], part.request)
            job.made += gain.token_ids
            job.first_scheduled_ns = job.first_scheduled_ns or gain.first_scheduled_ns
            following = None
            if gain.finish_reason == "length":
                following = next_part(job.request, job.made)
            if following is not None:
                gain = replace(gain, finish_reason=None)
            if gain.token_ids or gain.finish_reason is not None:
                self._put(job, gain.as_delta(job.request.key, job.first_scheduled_ns))
            if following is not None or gain.finish_reason is not None:
                return following
        if not job.cancelled:
            raise IncompleteResponse("TensorRT-LLM ended the request without a reason")
        return None

    def _order(self, job: Job) -> dict[str, Any]:
        """The library's priority, 1 (first) to 0, for ours of -100 (first) to 100."""
        return {"priority": (100 - job.request.priority) / 200} if self._by_priority else {}

    def _fail(self, job: Job, error: Exception) -> None:
        super()._fail(job, error)
        if job.result is not None and not isinstance(error.__cause__, self._request_error):
            self._abort_result(job)  # the library still works on it

    def _start_stats(self) -> None:
        """Not earlier, because the library complains before the first request."""
        if not self._reads_stats and hasattr(self._llm, "get_stats_async"):
            self._reads_stats = True
            self._help(self._read_stats())

    async def _read_stats(self) -> None:
        """Read the statistics, which otherwise pile up.

        The library always returns the same iterator. It ends when none come for a while, and stays
        at its end until the next request.
        """
        while True:
            with contextlib.suppress(
                Exception
            ):  # serving without figures is better than not serving
                iterator = self._llm.get_stats_async(timeout=WATCH_S)
                getattr(iterator, "mark_undone", lambda: None)()
                async for stats in iterator:
                    self._last_sign = time.monotonic()
                    self.kv_blocks = read_kv_blocks(stats.get("kvCacheStats") or {})
            await asyncio.sleep(STATS_PAUSE_S)


def error_of(job: Job, said: str) -> Exception:
    """What a `RequestError` with this message means for the request, or for all requests."""
    words = said.lower()
    if job.request.guide is not None and words.startswith(GUIDE_ERROR):
        return IncompleteResponse(said) if job.made else RefusedRequest(said)
    if any(mark in words for mark in BROADCASTS):
        return EngineLost(said)
    return IncompleteResponse(said) if job.accepted else RefusedRequest(said)


def read_kv_blocks(kv: dict[str, Any]) -> KvBlocks:
    """From `kvCacheStats`, whose counts of reused and missed blocks are sums since the start."""
    tokens = kv.get("tokensPerBlock", 0)
    hits = kv.get("reusedBlocks", 0)
    queries = hits + kv.get("missedBlocks", 0)
    total, used = kv.get("maxNumBlocks", 0), kv.get("usedNumBlocks", 0)
    return KvBlocks(total, used, queries * tokens, hits * tokens)


# A request that the runtime cancels gets no delta; one that the library cancels has failed.
FINISH_REASONS: dict[str, FinishReason] = {
    "stop": "stop",
    "length": "length",
    "timeout": "timeout",
}


def read_gain(output: Any, request: GenerationRequest) -> Gain:
    """Read a `CompletionOutput` after a response; raises `IncompleteResponse`.

    Samplers differ in whether the `end_id` is among the tokens, and an end id that is the last
    token allowed counts as "length" if it is one of the `stop_token_ids`.
    """
    tokens = tuple(output.token_ids_diff)
    said = output.finish_reason
    end_id = -1
    if said is not None and tokens and tokens[-1] in request.end_ids:
        tokens, said, end_id = tokens[:-1], "stop", tokens[-1]
    elif said == "stop":
        end_id = _end_id(output.stop_reason, request)
    logprobs: tuple[TokenLogprob, ...] = ()
    if request.logprobs is not None:
        logprobs = read_logprobs(tokens, output.logprobs_diff, request.logprobs, "TensorRT-LLM")
    if said is None:
        return Gain(tokens, logprobs)
    reason = FINISH_REASONS.get(said, "error")
    error = "" if said in FINISH_REASONS else f"TensorRT-LLM ended the request: {said}"
    return Gain(tokens, logprobs, reason, error, _first_scheduled_ns(output), end_id)


def _end_id(stop_reason: object, request: GenerationRequest) -> int:
    """The library names the id for `stop_token_ids`, but not for its `end_id`."""
    if isinstance(stop_reason, int):
        return stop_reason
    return request.end_ids[0] if request.end_ids else -1


def _first_scheduled_ns(output: Any) -> int:
    """From the library's clock, the machine's steady one; 0 if this version gives no times."""
    metrics = getattr(output, "request_perf_metrics", None)
    timing = getattr(metrics, "timing_metrics", None)
    scheduled: timedelta | None = getattr(timing, "first_scheduled_time", None)
    return epoch_ns(scheduled.total_seconds()) if scheduled else 0
