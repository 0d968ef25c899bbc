"""SGLang's Engine on its own asyncio loop. It keeps its queue and its priorities itself."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Sequence
from typing import Any

from token_engine.async_loop import AsyncLoop, Job
from token_engine.interface import FinishReason, GenerationRequest, TokenLogprob
from token_engine.library_results import (
    ODDITIES,
    Gain,
    IncompleteResponse,
    RefusedRequest,
    make_logprob,
    readable,
)

LOADS_PAUSE_S = 0.2
UNLIMITED = 2**31
BAD_REQUEST = 400
FINISH_REASONS: dict[str, FinishReason] = {"stop": "stop", "length": "length"}


class SglangLoop(AsyncLoop):
    """See `AsyncLoop`."""

    library = "SGLang"
    refusals = (ValueError,)

    def __init__(self, engine: Any, hang_timeout_s: float) -> None:
        self._engine = engine
        self._reads_loads = False
        self.running = 0
        self.tokens_used = 0
        self.tokens_total = 0
        self.prefix_queries = 0  # tokens of ended requests' prompts, since the start
        self.prefix_hits = 0  # of these, those found in the cache
        super().__init__(UNLIMITED, hang_timeout_s)

    # From here on everything runs on the loop's thread.

    def _abort_job(self, job: Job) -> None:
        self._help(self._abort_until_gone(job, self._tell_abort))

    async def _tell_abort(self, job: Job) -> None:
        self._engine.tokenizer_manager.abort_request(rid=job.params["rid"])

    async def _generate(self, job: Job) -> None:
        request = job.request
        if not self._reads_loads:
            self._reads_loads = True
            self._help(self._read_loads())
        stream = await self._engine.async_generate(**job.params)
        async with contextlib.aclosing(stream):  # closed early, it aborts the request
            async for output in stream:
                self._last_sign = time.monotonic()
                job.accepted = True
                if job.cancelled:
                    continue
                gain = readable(self.library, read_gain, output, request)
                job.made += gain.token_ids
                if gain.finish_reason is not None:
                    self._count_prefix(output["meta_info"])
                if gain.token_ids or gain.finish_reason is not None:
                    self._put(job, gain.as_delta(request.key, 0))
                if gain.finish_reason is not None:
                    return
        if not job.cancelled:
            raise IncompleteResponse("SGLang ended the request without a reason")

    def _count_prefix(self, meta_info: dict[str, Any]) -> None:
        with contextlib.suppress(*ODDITIES):
            self.prefix_queries += meta_info.get("prompt_tokens") or 0
            self.prefix_hits += meta_info.get("cached_tokens") or 0

    async def _read_loads(self) -> None:
        """Read what the schedulers do, which also shows life during a long prefill."""
        computed = None
        while True:
            with contextlib.suppress(Exception):  # better to serve without figures than not at all
                loads = await self._engine.tokenizer_manager.get_loads()
                self.running = sum(load.num_running_reqs for load in loads)
                self.tokens_used = sum(load.num_used_tokens for load in loads)
                self.tokens_total = sum(load.max_total_num_tokens for load in loads)
                before, computed = computed, [load.total_prefill_uncached_tokens for load in loads]
                if computed != before:
                    self._last_sign = time.monotonic()
            await asyncio.sleep(LOADS_PAUSE_S)


def read_gain(output: dict[str, Any], request: GenerationRequest) -> Gain:
    """Read an output with incremental_streaming_output; raises what ends the request.

    The token that stopped it may be the last of the tokens.
    """
    tokens = tuple(output["output_ids"])
    meta_info = output["meta_info"]
    finish = meta_info.get("finish_reason")
    logprobs: tuple[TokenLogprob, ...] = ()
    if finish is None:
        if request.logprobs is not None:
            logprobs = _read_logprobs(tokens, meta_info, request.logprobs)
        return Gain(tokens, logprobs)
    if finish["type"] == "abort":
        message = str(finish.get("message") or "SGLang has aborted the request")
        refused = finish.get("status_code") == BAD_REQUEST
        raise RefusedRequest(message) if refused else IncompleteResponse(message)
    end_id = -1
    matched = finish["matched"] if finish["type"] == "stop" else None
    if isinstance(matched, str):  # no text was to stop it: so the library says "NaN happened"
        raise IncompleteResponse(f"SGLang ended the request: {matched}")
    if matched in request.end_ids:  # else a guide is done
        end_id = int(matched)
        tokens = tokens[:-1] if tokens[-1:] == (end_id,) else tokens
    if request.logprobs is not None:
        logprobs = _read_logprobs(tokens, meta_info, request.logprobs)
    reason = FINISH_REASONS.get(finish["type"], "error")
    error = "" if reason != "error" else f"SGLang ended the request: {finish['type']}"
    return Gain(tokens, logprobs, reason, error, 0, end_id)


def _read_logprobs(
    tokens: Sequence[int], meta_info: dict[str, Any], wanted: int
) -> tuple[TokenLogprob, ...]:
    """From (logprob, token id, text) of each token, and the same lists of the likeliest."""
    chosen = meta_info.get("output_token_logprobs") or ()
    best = meta_info.get("output_top_logprobs") or ()
    if len(chosen) < len(tokens) or (wanted and len(best) < len(tokens)):
        raise IncompleteResponse(
            f"SGLang sent {len(chosen)} log-probabilities with {len(tokens)} tokens"
        )
    logprobs = []
    for place, token in enumerate(tokens):
        entries = [chosen[place], *((best[place] or ()) if wanted else ())]
        values = {int(one): float(logprob) for logprob, one, *_ in entries}
        logprobs.append(make_logprob(token, values, wanted, "SGLang"))
    return tuple(logprobs)
