"""OpenVINO GenAI's continuous batching on the CPU, over the checkpoint's own 4-bit weights.

The library brings the scheduler, the paged KV cache, and the sampler
(`sampling.py` speaks to that); this file keeps the queue and translates.

A request starts when the KV cache has room for all that it may generate, as TensorRT-LLM does by
default (GUARANTEED_NO_EVICT). The library would start it at once, set others aside when the cache
is full, and compute them again. But 2026.4.1 drops every request from a step in which nothing fits;
that happens while a cancelled request is no longer computed and not yet freed.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from engine_config import EngineConfig, parse_section

from token_engine.interface import (
    EngineLoadError,
    EngineStats,
    FinishReason,
    GenerationRequest,
    TokenDelta,
    TokenEngine,
    TokenLogprob,
)
from token_engine.openvino_runtime.guide_queue import GuideQueue, GuideRefusal
from token_engine.openvino_runtime.library import check_release, computing_cpu, import_openvino
from token_engine.openvino_runtime.memory import (
    WEIGHTS_FILE,
    check_memory,
    has_memory,
    release_mapped_file,
)
from token_engine.openvino_runtime.options import KV_BLOCK_TOKENS, OpenVinoOptions
from token_engine.openvino_runtime.precision import settle
from token_engine.openvino_runtime.sampling import (
    AlarmWatch,
    EqualLogitsWatch,
    generation_config,
    refuse_unsupported,
)

REBUILD = "rebuild the engine with 'make engine'"
IDLE_WAIT_S = 0.005  # for a guide, where there is nothing else to do; then for a message


class OpenVinoEngine(TokenEngine):
    """See the module's docstring."""

    def __init__(self, directory: Path, config: EngineConfig) -> None:
        self._directory, self._config = directory, config
        self._options = parse_section(OpenVinoOptions, config.runtime_options, "runtime_options")
        self._ov, self._genai = import_openvino()
        check_release(config.built_with, self._ov.__version__)
        self._cpu = computing_cpu(self._ov)
        self._settled = settle(self._options, self._cpu, has_memory(directory, self._options))
        check_memory(directory, self._options, self._settled)
        self._ignored = self._genai.GenerationStatus.IGNORED
        self._unfinished = self._genai.GenerationFinishReason.NONE
        self._max_batch_size = config.limits.max_batch_size
        self._waiting: dict[int, GenerationRequest] = {}  # in order of arrival
        self._running: dict[int, _Running] = {}  # inside the pipeline
        self._refused: list[TokenDelta] = []
        self._cancelled_blocks = 0  # the pipeline frees a cancelled request in its next step
        self._guides = GuideQueue(directory, config.model.eos_token_ids, self._genai)
        self._has_guides = False  # whether the queue has been asked for anything
        self._pipeline = self._load()

    def prepare(self) -> None:
        self._guides.start_prover()

    def _load(self) -> Any:
        limits = self._config.limits
        scheduler = self._genai.SchedulerConfig()
        scheduler.num_kv_blocks = self._options.num_kv_blocks
        scheduler.cache_size = 0  # in whole GB, and it would win over num_kv_blocks
        scheduler.max_num_batched_tokens = limits.max_num_tokens
        scheduler.max_num_seqs = limits.max_batch_size  # see _admit
        scheduler.enable_prefix_caching = self._options.enable_prefix_caching
        properties = {
            "INFERENCE_PRECISION_HINT": self._settled.precision,
            "KV_CACHE_PRECISION": self._settled.kv_cache_precision,
        }
        if self._options.num_threads:
            properties["INFERENCE_NUM_THREADS"] = str(self._options.num_threads)
        self._holds_originals = True
        try:
            return self._genai.ContinuousBatchingPipeline(
                str(self._directory), self._guides.tokenizer, scheduler, "CPU", **properties
            )
        except Exception as error:  # the library raises RuntimeError for everything
            raise EngineLoadError(
                f"OpenVINO cannot load the engine in {self._directory} ({_cause(error)}); {REBUILD}"
            ) from error

    @property
    def facts(self) -> dict[str, str]:
        return {
            "precision": self._settled.precision,
            "kv_cache_precision": self._settled.kv_cache_precision,
            "cpu": str(self._cpu),
            "precision_reason": self._settled.reason,
        }

    @property
    def has_work(self) -> bool:
        return bool(
            self._running
            or self._waiting
            or self._refused
            or self._cancelled_blocks
            or (self._has_guides and self._guides.is_full)
        )

    def submit(self, request: GenerationRequest) -> None:
        refuse_unsupported(request, self._config.model.vocab_size)
        if request.guide is not None:
            request = self._guides.prepared(request)
            self._has_guides = True
        blocks = _most_blocks(request)
        if blocks > self._options.num_kv_blocks:
            self._refused.append(self._does_not_fit(request.key, blocks))
        else:
            self._waiting[request.key] = request

    def _admit(self) -> None:
        """Fill the batch. The library has `max_num_seqs`, but its chunked prefill ignores it."""
        taken = self._cancelled_blocks + sum(
            _most_blocks(running.request) for running in self._running.values()
        )
        for request in self._ready():
            taken += _most_blocks(request)
            if taken > self._options.num_kv_blocks or len(self._running) == self._max_batch_size:
                return  # a smaller one must not overtake it, or it could wait forever
            prompt = self._ov.Tensor(np.array([request.prompt_ids], np.int64))
            watch = self._watch(request)
            config = generation_config(self._genai, request)
            if watch.needs_logprobs:
                config.logprobs = 1
            if request.guide is not None:
                self._guides.apply(config, request.guide)
            handle = self._pipeline.add_request(request.key, prompt, config)
            del self._waiting[request.key]
            self._running[request.key] = _Running(request, handle, watch)

    def _watch(self, request: GenerationRequest) -> AlarmWatch | EqualLogitsWatch:
        vocab_size = self._config.model.vocab_size
        if self._guides.logits_size > vocab_size:
            return AlarmWatch(request, vocab_size)
        return EqualLogitsWatch(request, vocab_size)

    def _ready(self) -> list[GenerationRequest]:
        """The requests that may start, most urgent first. Those whose guide is refused end here."""
        ready = []
        for request in sorted(self._waiting.values(), key=lambda waiting: waiting.priority):
            answer = self._guides.ask(request.guide) if request.guide else True
            if isinstance(answer, GuideRefusal):
                del self._waiting[request.key]
                delta = TokenDelta(request.key, (), "error", answer.sentence, answer.fault)
                self._refused.append(delta)
            elif answer:
                ready.append(request)
        return ready

    def _does_not_fit(self, key: int, blocks: int) -> TokenDelta:
        held = self._options.num_kv_blocks * KV_BLOCK_TOKENS
        return TokenDelta(
            key,
            (),
            "error",
            f"the request needs {blocks * KV_BLOCK_TOKENS} tokens of KV cache, there are {held}",
            fault="invalid",
        )

    def cancel(self, key: int) -> None:
        self._waiting.pop(key, None)
        self._refused = [delta for delta in self._refused if delta.key != key]
        running = self._running.pop(key, None)
        if running is not None:
            running.handle.cancel()
            self._cancelled_blocks += _most_blocks(running.request)

    def step(self) -> list[TokenDelta]:
        self._admit()
        deltas, self._refused = self._refused, []
        is_idle = not self._running and not self._cancelled_blocks
        waits = is_idle and not deltas and bool(self._waiting)
        if self._has_guides:
            self._guides.work(self._meets_a_guide(), IDLE_WAIT_S if waits else 0.0)
            if self._waiting and not is_idle:
                self._admit()  # in this step, whose guide has just been proven
        if is_idle:
            if self._has_guides and self._guides.is_full and not self._waiting:
                self._reload()
            return deltas
        self._cancelled_blocks = 0
        now = time.time_ns()
        self._pipeline.step()
        self._note_first_passes(now)
        for key, running in self._running.items():
            if running.handle.get_status() == self._ignored:  # and there is nothing to read
                error = "the KV cache is too small for the request"
                deltas.append(TokenDelta(key, (), "error", error, fault="invalid"))
            elif running.handle.can_read():
                deltas.append(self._read(running))
        for delta in deltas:
            if delta.finish_reason:
                self._running.pop(delta.key, None)
                self._release_originals()
        return deltas

    def _release_originals(self) -> None:
        """Once a request is through, the warm-up's as a rule: every weight has been repacked."""
        if self._holds_originals:
            self._holds_originals = False
            release_mapped_file(self._directory / WEIGHTS_FILE)

    def _meets_a_guide(self) -> bool:
        """Whether the pipeline may compile a running request's grammar in this step."""
        return any(one.request.guide and not one.has_tokens for one in self._running.values())

    def _reload(self) -> None:
        """Only a new pipeline forgets the grammars that the library has compiled."""
        self._guides.shutdown()
        del self._pipeline
        self._guides = GuideQueue(
            self._directory, self._config.model.eos_token_ids, self._genai, self._guides
        )
        self._has_guides = False
        self._pipeline = self._load()
        self._guides.start_prover()

    def _note_first_passes(self, now: int) -> None:
        """The library says only how many requests it scheduled: new ones last, as they came."""
        new = [running for running in self._running.values() if not running.first_scheduled_ns]
        if new:
            others = len(self._running) - len(new)
            scheduled = self._pipeline.get_metrics().scheduled_requests
            for running in new[: max(0, scheduled - others)]:
                running.first_scheduled_ns = now

    def _read(self, running: _Running) -> TokenDelta:
        request = running.request
        (output,) = running.handle.read().values()
        tokens = tuple(output.generated_ids)
        running.has_tokens = True
        is_unfinished = output.finish_reason == self._unfinished
        if running.watch.is_unsound(tokens, output.generated_log_probs):
            reason: FinishReason | None = None if is_unfinished else "length"
            return TokenDelta(request.key, (), reason, logprobs=(TokenLogprob(math.nan),))
        logprobs: tuple[TokenLogprob, ...] = ()
        if request.logprobs is not None:
            logprobs = tuple(TokenLogprob(min(value, 0.0)) for value in output.generated_log_probs)
        if is_unfinished:
            return TokenDelta(request.key, tokens, logprobs=logprobs)
        stopped = bool(tokens) and tokens[-1] in request.end_ids
        kept = len(tokens) - stopped
        return TokenDelta(
            request.key,
            tokens[:kept],
            "stop" if stopped else "length",
            logprobs=logprobs[:kept],
            first_scheduled_ns=running.first_scheduled_ns,
            end_id=tokens[-1] if stopped else -1,
        )

    def stats(self) -> EngineStats:
        total = self._options.num_kv_blocks
        # The pipeline's figure is of its last step, and stays when nobody runs any more.
        usage = self._pipeline.get_metrics().cache_usage / 100 if self._running else 0.0
        return EngineStats(
            active_requests=len(self._running),
            queued_requests=len(self._waiting),
            kv_blocks_total=total,
            kv_blocks_used=round(usage * total),
        )

    def shutdown(self) -> None:
        for key in [*self._waiting, *self._running]:
            self.cancel(key)
        if self._cancelled_blocks:
            self._pipeline.step()  # it complains of leaked blocks if they are not freed
        self._guides.shutdown()
        del self._pipeline


@dataclass(slots=True)
class _Running:
    """A request inside the pipeline."""

    request: GenerationRequest
    handle: Any
    watch: AlarmWatch | EqualLogitsWatch
    first_scheduled_ns: int = 0
    has_tokens: bool = False


def _most_blocks(request: GenerationRequest) -> int:
    """The most KV blocks of a request. Its last token needs none, because nothing follows it."""
    return -(-(len(request.prompt_ids) + request.max_tokens - 1) // KV_BLOCK_TOKENS)


def _cause(error: Exception) -> str:
    """OpenVINO's messages begin with the place in its source; the last line says what is wrong."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__
