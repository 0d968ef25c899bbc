"""TensorRT-LLM's worker: a thread that batches requests and answers them step by step.

Source: tensorrt_llm/executor/{executor,base_worker,proxy}.py and _torch/pyexecutor of 1.2.
"""

from __future__ import annotations

import dataclasses
import queue
import threading
import time
from dataclasses import dataclass, field
from datetime import timedelta
from types import SimpleNamespace
from typing import Any

import numpy as np

from tests.fakes.libraries.grammars import UNCOMPILABLE, check_grammar
from tests.fakes.libraries.spawned import note_shutdown
from tests.fakes.tensorrt_llm.fake_results import (
    IterationResult,
    RequestOutput,
    Response,
    perf_metrics,
)
from tests.fakes.tensorrt_llm.fake_sampler import Chooser, Kind

BLOCK_TOKENS = 32


@dataclass
class Behaviour:
    """How the fake misbehaves, and how fast it is."""

    step_seconds: float = 0.0
    die_at_step: int = 0  # the workers die
    hang_at_step: int = 0  # the workers stop without a sign
    reject: dict[int, int] = field(default_factory=dict)  # first prompt id -> after so many tokens
    time_out: dict[int, int] = field(default_factory=dict)  # the same, with finish reason timeout
    broadcast_at_step: int = 0  # the worker's loop ends, and so does each request
    fail_all: dict[int, str] = field(default_factory=dict)  # step -> what fails all requests
    forget_logprob: dict[int, int] = field(
        default_factory=dict
    )  # first prompt id -> number of the token that has none
    keeps_errors: bool = False  # a result keeps its error instead of raising it, as from 1.4 on
    refuse_guides: tuple[str, ...] = ()  # guides that the grammar compiler rejects
    lose_aborts: bool = False  # an aborted request gets no last response
    hang_on_shutdown: bool = False
    notes_shutdown: str = ""  # a file that gets a line for each
    spawns: str = ""  # a file for the pid of a spawned process
    gpus: int = 1
    compute_capability: tuple[int, int] = (10, 0)


@dataclass(eq=False)
class Job:
    result: RequestOutput
    prompt: list[int]
    max_tokens: int
    chooser: Chooser
    end_id: int
    unsent: list[int] = field(default_factory=list)
    output: list[int] = field(default_factory=list)
    logprobs: list[Any] = field(default_factory=list)
    prefilled: int = 0
    first_scheduled: timedelta | None = None


class Executor:
    """The executor of one `LLM`."""

    def __init__(
        self,
        arguments: dict[str, Any],
        kind: Kind,
        vocab: int,
        how: Behaviour,
        ends_on_guides: bool,
    ) -> None:
        self._arguments = arguments
        self._kind = kind
        self._ends_on_guides = ends_on_guides
        self._vocab_size = vocab
        self._how = how
        self._lock = threading.Condition()
        self._waiting: list[Job] = []
        self._active: list[Job] = []
        self._aborted: set[int] = set()
        self._generator = np.random.default_rng(42)  # shared by all requests without a seed
        self._errors: queue.SimpleQueue[Exception] = queue.SimpleQueue()
        self._iter_stats_result: IterationResult | None = None
        self._ids = 1
        self._steps = 0
        self.doing_shutdown = False
        self.dead = False
        self.most_active = 0
        self.hit_rate = 0.5  # of the prefix cache
        self._blocks_looked_up = 0
        self._thread = threading.Thread(target=self._work, daemon=True)
        self._thread.start()

    # The proxy's side.

    def submit(self, prompt: list[int], params: Any) -> RequestOutput:
        if self._iter_stats_result is None:
            self._iter_stats_result = IterationResult()
        self._iter_stats_result.mark_undone()
        self.raise_background_error()
        self._ids += 1
        result = RequestOutput(self._ids, params, self)
        error = sampling_config_error(params) or self._admission_error(params)
        if error:
            result.queue.put(Response([], error=error))
            return result
        limit = self._arguments["max_seq_len"] - len(prompt)
        chooser = Chooser(self._kind, self._drafted(params), prompt, self._vocab_size)
        end_id = -1 if params.ignore_eos else params.end_id
        job = Job(result, prompt, min(params.max_tokens, limit), chooser, end_id)
        with self._lock:
            self._waiting.append(job)
            self._lock.notify()
        return result

    def _admission_error(self, params: Any) -> str:
        guide = params.guided_decoding
        if guide is not None and guide.regex in self._how.refuse_guides:
            return f"Guided decoding error: unbalanced bracket in {guide.regex}"
        if params.min_p and isinstance(self._arguments.get("speculative_config"), dict):
            return "" if self._mode == "fused" else "min_p needs advanced_sampling_mode fused"
        return ""

    @property
    def keeps_errors(self) -> bool:
        return self._how.keeps_errors

    @property
    def _mode(self) -> str:
        drafts = self._arguments.get("speculative_config")
        return drafts.get("advanced_sampling_mode", "full") if isinstance(drafts, dict) else "full"

    def _drafted(self, params: Any) -> Any:
        """The parameters without those that the `advanced_sampling_mode` silently drops."""
        mode = self._mode
        dropped = {one: None for one in ("top_k", "top_p") if f"no_{one.replace('_', '')}" in mode}
        return dataclasses.replace(params, **dropped) if dropped else params

    def abort_request(self, request_id: int) -> None:
        with self._lock:
            self._aborted.add(request_id)
            self._lock.notify()

    def raise_background_error(self) -> None:
        if not self._errors.empty():
            error = self._errors.get()
            self.doing_shutdown = True
            raise error

    def aget_stats(self, timeout: float) -> Any:
        if self._iter_stats_result is None:
            raise AssertionError("the library warns: no request was submitted yet")
        self._iter_stats_result.timeout = timeout
        return self._iter_stats_result

    def shutdown(self) -> None:
        note_shutdown(self._how.notes_shutdown)
        if self._how.hang_on_shutdown:
            time.sleep(3600)
        with self._lock:
            self.doing_shutdown = True
            self._lock.notify()
        self._thread.join()

    @property
    def is_running(self) -> bool:
        return self._thread.is_alive()

    @property
    def counts(self) -> tuple[int, int]:
        """(active, waiting)"""
        with self._lock:
            return len(self._active), len(self._waiting)

    # The worker's side.

    def _work(self) -> None:
        while True:
            with self._lock:
                self._lock.wait_for(
                    lambda: self._waiting or self._active or self._aborted or self.doing_shutdown
                )
                if self.doing_shutdown:
                    return
                self._steps += 1
                if self._how.die_at_step and self._steps >= self._how.die_at_step:
                    self.dead = True
                    self._errors.put(RuntimeError("MPI worker 0 was killed by signal 9"))
                    return
                if self._how.hang_at_step and self._steps >= self._how.hang_at_step:
                    return
                if self._ends_its_loop():
                    return
                if self._stumbles_over_a_guide():
                    return
                self._step()
            time.sleep(self._how.step_seconds)

    def _ends_its_loop(self) -> bool:
        """From 1.3 on: what the loop raised reaches every active request as its error."""
        ends = bool(self._how.broadcast_at_step) and self._steps >= self._how.broadcast_at_step
        said = self._how.fail_all.pop(self._steps, "")
        if ends:
            said = "Event loop terminated with error: CUDA driver error: unknown error"
        if said:
            for job in [*self._waiting, *self._active]:
                job.result.queue.put(Response([], error=said))
            self._waiting, self._active = [], []
        return ends

    def _stumbles_over_a_guide(self) -> bool:
        """`GuidedDecoder`: what does not compile ends the loop (1.0, 1.1), or its request."""
        for job in list(self._waiting):
            said = guide_error(job.result.sampling_params.guided_decoding)
            if said and self._ends_on_guides:
                self.dead = True
                self._errors.put(RuntimeError(said))
                return True
            if said:
                self._waiting.remove(job)
                job.result.queue.put(Response([], error=f"Guided decoding error: {said}"))
        return False

    def _step(self) -> None:
        self._drop_aborted()
        while self._waiting and len(self._active) < self._arguments["max_batch_size"]:
            self._active.append(self._waiting.pop(0))
            self._blocks_looked_up += 2
        self.most_active = max(self.most_active, len(self._active))
        budget = self._arguments["max_num_tokens"]
        generators = self._generators()
        for job in list(self._active):
            if job.first_scheduled is None:
                job.first_scheduled = timedelta(seconds=time.monotonic())
            if job.prefilled < len(job.prompt):
                chunk = min(budget, len(job.prompt) - job.prefilled)
                job.prefilled += chunk
                budget -= chunk
            if job.prefilled == len(job.prompt):
                self._advance(job, generators[job])
        self._report()

    def _generators(self) -> dict[Job, np.random.Generator]:
        """The generator that each request draws from.

        FlashInfer (0.6.15) reads the seed and the offset of the first row that has one, and gives
        every row a stream of these: so a TorchSampler honours the seed of that row alone.
        """
        generators = dict.fromkeys(self._active, self._generator)
        seeded = [job for job in self._active if job.result.sampling_params.seed is not None]
        if self._kind == "torch" and seeded:
            first = seeded[0]
            begin = [first.result.sampling_params.seed, len(first.output)]
            rows = enumerate(seeded)
            generators |= {job: np.random.default_rng([*begin, row]) for row, job in rows}
        return generators

    def _advance(self, job: Job, generator: np.random.Generator) -> None:
        token, logprobs = job.chooser.choose(job.output, generator)
        finish = self._finish(job, token)
        if not (finish == "END_ID" and self._kind == "cpp"):
            job.output.append(token)
            job.unsent.append(token)
            forgotten = self._how.forget_logprob.get(job.prompt[0])
            if logprobs is not None and len(job.output) != forgotten:
                job.logprobs.append(self._entry(job, token, logprobs))
        error = self._misbehaviour(job, self._how.reject)
        finish = "TIMED_OUT" if self._misbehaviour(job, self._how.time_out) else finish
        interval = self._arguments.get("stream_interval") or 1
        if finish or error or len(job.unsent) >= interval:
            self._send(job, finish, "the request was rejected" if error else "")

    def _entry(self, job: Job, token: int, logprobs: dict[int, tuple[float, int]]) -> Any:
        """A token's log-probabilities: a table, or its own as a number."""
        params = job.result.sampling_params
        if params.logprobs == 0 and getattr(params, "logprobs_simple_format", False):
            return logprobs[token][0]
        return {one: SimpleNamespace(logprob=a, rank=b) for one, (a, b) in logprobs.items()}

    def _misbehaviour(self, job: Job, table: dict[int, int]) -> bool:
        return job.prompt[0] in table and len(job.output) >= table[job.prompt[0]]

    def _finish(self, job: Job, token: int) -> str:
        stops = job.result.sampling_params.stop_token_ids or []
        length = len(job.output) + 1 >= job.max_tokens
        if token == job.end_id:
            return "END_ID"
        if self._kind == "cpp" and token in stops:
            return "STOP_WORDS"
        if length:
            return "LENGTH"
        return "STOP_WORDS" if token in stops else ""

    def _send(self, job: Job, finish: str, error: str = "") -> None:
        wants = job.result.sampling_params.return_perf_metrics
        metrics = perf_metrics(job.first_scheduled) if wants and finish else None
        logprobs = list(job.logprobs) if job.logprobs else None
        job.result.queue.put(Response(job.unsent, finish, error, logprobs, metrics))
        job.unsent = []
        if finish or error:
            self._active.remove(job)

    def _drop_aborted(self) -> None:
        for job in [*self._waiting, *self._active]:
            if job.result.request_id in self._aborted:
                (self._waiting if job in self._waiting else self._active).remove(job)
                if not self._how.lose_aborts:
                    job.result.queue.put(Response([], "CANCELLED"))
        self._aborted.clear()

    def _report(self) -> None:
        if not self._arguments.get("enable_iter_perf_stats") or self._iter_stats_result is None:
            return
        used = sum(-(-(job.prefilled + len(job.output)) // BLOCK_TOKENS) for job in self._active)
        reused = int(self._blocks_looked_up * self.hit_rate)
        self._iter_stats_result.queue.put(
            {
                "iter": self._steps,
                "numActiveRequests": len(self._active),
                "numQueuedRequests": len(self._waiting),
                "kvCacheStats": {
                    "maxNumBlocks": 1000,
                    "usedNumBlocks": used,
                    "tokensPerBlock": BLOCK_TOKENS,
                    "reusedBlocks": reused,
                    "missedBlocks": self._blocks_looked_up - reused,
                },
            }
        )


def guide_error(guide: Any) -> str:
    """The grammar compiler's error; "" without a guide, and for a guide that it compiles."""
    if guide is None or guide.json_object:
        return ""
    kind = "json_schema" if guide.json else "regex" if guide.regex else "ebnf_grammar"
    text = guide.json or guide.regex or guide.grammar
    try:
        check_grammar(kind, text)
    except RuntimeError as error:
        return str(error)
    return "Cannot find field nowhere in #/nowhere" if text == UNCOMPILABLE else ""


def sampling_config_error(params: Any) -> str:
    """The checks of cpp/tensorrt_llm/executor/samplingConfig.cpp, on numbers in f32."""
    checks = {
        "topP": params.top_p is None or 0 < np.float32(params.top_p) <= 1,
        "topK": params.top_k is None or params.top_k >= 0,
        # Later versions take 0 and divide by 1e-6, which is not greedy.
        "temperature": params.temperature is None or np.float32(params.temperature) > 0,
        "minP": params.min_p is None or 0 <= params.min_p <= 1,
        "repetitionPenalty": params.repetition_penalty is None or params.repetition_penalty > 0,
        "seed": params.seed is None or 0 <= params.seed < 2**64,
    }
    wrong = [name for name, right in checks.items() if not right]
    return f"[TensorRT-LLM][ERROR] Assertion failed: {wrong[0]}" if wrong else ""
