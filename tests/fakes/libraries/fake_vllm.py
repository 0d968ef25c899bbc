"""A fake `vllm`, made of recorded signatures, that behaves as 0.32's sources say.

Sources: vllm/sampling_params.py, vllm/v1/engine/{async_llm,output_processor,input_processor}.py,
vllm/v1/core/sched/{scheduler,utils}.py, vllm/v1/sample/sampler.py, vllm/v1/metrics/loggers.py.
"""

from __future__ import annotations

import asyncio
import functools
import json
import math
import os
from collections.abc import AsyncIterator, Sequence
from enum import Enum
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

from tests.fakes.libraries.choices import Chooser, Wishes
from tests.fakes.libraries.grammars import UNCOMPILABLE, check_grammar
from tests.fakes.libraries.signatures import bound, load_signatures, module, record_class
from tests.fakes.libraries.spawned import spawn_a_process
from tests.fakes.libraries.worker import BLOCKS, Behaviour, Emission, Work, Worker, emit_on

EOS = 2  # of the fake's tokenizer
LEAST_TEMPERATURE = 0.01


class VLLMClientError(Exception):
    """Base class for errors caused by the client request (4xx)."""


class VLLMValidationError(VLLMClientError):
    """Request validation failures."""


class GenerationError(Exception):
    """The engine could not continue one request. 0.33 raises it unwrapped."""


class GracefulHTTPError(Exception):
    """One request was not admitted."""


class EngineGenerateError(Exception):
    """Raised when a AsyncLLM.generate() fails. Recoverable."""


class EngineDeadError(Exception):
    """Raised when the EngineCore dies. Unrecoverable."""


class RequestOutputKind(Enum):
    CUMULATIVE = 0
    DELTA = 1
    FINAL_ONLY = 2


def check_params(params: Any) -> None:
    """`SamplingParams.__post_init__` and `_verify_args`."""
    if 0 < params.temperature < LEAST_TEMPERATURE:
        params.temperature = LEAST_TEMPERATURE
    params.seed = None if params.seed == -1 else params.seed
    params.stop_token_ids = list(dict.fromkeys(params.stop_token_ids or []))
    checks = {
        "temperature": math.isfinite(params.temperature) and 0 <= params.temperature <= 2,
        "top_p": 0 < params.top_p <= 1,
        "top_k": isinstance(params.top_k, int) and params.top_k >= -1,
        "min_p": 0 <= params.min_p <= 1,
        "presence_penalty": -2 <= params.presence_penalty <= 2,
        "frequency_penalty": -2 <= params.frequency_penalty <= 2,
        "repetition_penalty": params.repetition_penalty > 0,
        "max_tokens": params.max_tokens is None or params.max_tokens >= 1,
        "min_tokens": 0 <= params.min_tokens <= (params.max_tokens or math.inf),
        "logprobs": params.logprobs is None or params.logprobs >= -1,
        "stop": not params.stop or params.detokenize,
    }
    for name, right in checks.items():
        if not right:
            raise VLLMValidationError(f"{name} is wrong, got {getattr(params, name)}.")


def check_guide(params: Any) -> None:
    """`StructuredOutputsParams.__post_init__`."""
    names = ("json", "regex", "choice", "grammar", "json_object", "structural_tag")
    if sum(getattr(params, name) is not None for name in names) != 1:
        raise VLLMValidationError("You must use one kind of structured outputs constraint")


class Package:
    """The modules of one version."""

    def __init__(self, version: str, behaviour: Behaviour) -> None:
        self.signatures = load_signatures(f"vllm_{version}")
        self.behaviour = behaviour
        self.llms: list[Any] = []  # in the order of creation
        self.raised_as_they_are: tuple[type[Exception], ...] = (VLLMClientError, GracefulHTTPError)
        if version != "0_32":
            self.raised_as_they_are += (GenerationError,)
        recorded = self.signatures
        self.sampling_params = record_class(
            "SamplingParams", recorded["sampling_params"], __post_init__=check_params
        )
        self.structured_outputs_params = record_class(
            "StructuredOutputsParams",
            recorded["structured_outputs_params"],
            __post_init__=check_guide,
        )
        # What the library returns, without fields that the real one lacks.
        self.completion_output, self.scheduler_stats, self.cache_stats, self.request_stats = (
            record_class(name.title().replace("_", ""), recorded[name])
            for name in (
                "completion_output",
                "scheduler_stats",
                "prefix_cache_stats",
                "request_state_stats",
            )
        )
        self.engine_args = record_class(
            "AsyncEngineArgs", recorded["engine_args"] + recorded["async_engine_args"]
        )

    def tokens_input(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        given = bound(self.signatures["tokens_input"], args, kwargs)
        return {"type": "token", "prompt_token_ids": given["prompt_token_ids"]}

    def modules(self) -> dict[str, ModuleType]:
        """The fake modules by name."""
        package = self

        class BoundAsyncLLM(AsyncLLM):
            @classmethod
            def from_engine_args(cls, *args: Any, **kwargs: Any) -> Any:
                return cls(package, bound(package.signatures["from_engine_args"], args, kwargs))

        capability = self.behaviour.capability
        platform = SimpleNamespace(
            is_cuda=lambda: capability is not None,
            get_device_capability=lambda: SimpleNamespace(
                major=capability[0] if capability else 0, minor=capability[1] if capability else 0
            ),
            get_device_name=lambda: "NVIDIA Fake",
        )
        count = self.behaviour.gpus
        modules = {
            "torch": {"cuda": SimpleNamespace(device_count=lambda: count)},
            "vllm": {"__version__": self.signatures["version"], "fake": self},
            "vllm.engine": {},
            "vllm.engine.arg_utils": {"AsyncEngineArgs": self.engine_args},
            "vllm.exceptions": {
                "GenerationError": GenerationError,
                "GracefulHTTPError": GracefulHTTPError,
                "VLLMClientError": VLLMClientError,
            },
            "vllm.inputs": {"tokens_input": self.tokens_input},
            "vllm.platforms": {"current_platform": platform},
            "vllm.sampling_params": {
                "SamplingParams": self.sampling_params,
                "StructuredOutputsParams": self.structured_outputs_params,
                "RequestOutputKind": RequestOutputKind,
            },
            "vllm.v1": {},
            "vllm.v1.engine": {},
            "vllm.v1.engine.async_llm": {"AsyncLLM": BoundAsyncLLM},
            "vllm.v1.engine.exceptions": {
                "EngineDeadError": EngineDeadError,
                "EngineGenerateError": EngineGenerateError,
            },
        }
        return {
            name: module(name, **({"__path__": []} if name != "torch" else {}), **values)
            for name, values in modules.items()
        }


class Collector:
    """`RequestOutputCollector` for the kind DELTA: outputs that wait are joined into one."""

    def __init__(self) -> None:
        self._output: Any = None
        self._ready = asyncio.Event()

    def put(self, output: Any) -> None:
        if self._output is None or isinstance(output, Exception):
            self._output = output
        elif not isinstance(self._output, Exception):
            self._join(output)
        self._ready.set()

    def _join(self, new: Any) -> None:
        old, added = self._output.outputs[0], new.outputs[0]
        old.token_ids = [*old.token_ids, *added.token_ids]
        if added.logprobs:
            old.logprobs = [*(old.logprobs or []), *added.logprobs]
        old.finish_reason, old.stop_reason = added.finish_reason, added.stop_reason
        self._output.finished = self._output.finished or new.finished

    async def get(self) -> Any:
        while self._output is None:
            await self._ready.wait()
        output, self._output = self._output, None
        self._ready.clear()
        if isinstance(output, Exception):
            raise output
        return output


class AsyncLLM:
    """vllm/v1/engine/async_llm.py."""

    def __init__(self, package: Package, given: dict[str, Any]) -> None:
        self._package = package
        self.args = given["engine_args"]
        self._check_args()
        self.worker = Worker(
            self.args.max_num_seqs,
            self.args.max_num_batched_tokens,
            self.args.max_model_len,
            package.behaviour,
            self.args.enable_chunked_prefill is not False,
        )
        config = json.loads((Path(self.args.model) / "config.json").read_text(encoding="utf-8"))
        self._vocab_size = int(config["vocab_size"])
        self.vllm_config = SimpleNamespace(cache_config=SimpleNamespace(num_gpu_blocks=BLOCKS))
        self._loggers = [factory(self.vllm_config, 0) for factory in given["stat_loggers"] or []]
        for logger in self._loggers:
            logger.log_engine_initialized()
        self.requests: list[tuple[list[int], Any, int]] = []  # prompt, params, priority
        self._collectors: dict[str, Collector] = {}
        self.worker.on_step = self._report
        self.worker.on_death = self._die
        self._loop: Any = None
        package.llms.append(self)
        if package.behaviour.spawns:
            assert os.environ["VLLM_WORKER_MULTIPROC_METHOD"] == "spawn"
            spawn_a_process(package.behaviour.spawns)

    def _check_args(self) -> None:
        args = self.args
        if not args.disable_log_stats:
            raise AssertionError("the default loggers write to Prometheus' global registry")
        if args.max_num_batched_tokens < args.max_num_seqs:
            raise ValueError("max_num_batched_tokens must be at least max_num_seqs")
        whole = args.max_num_batched_tokens >= args.max_model_len
        if args.enable_chunked_prefill is False and not whole:
            raise ValueError("max_num_batched_tokens is smaller than max_model_len")
        if args.tensor_parallel_size * args.pipeline_parallel_size > 8:
            raise RuntimeError("Engine core initialization failed. See root cause above.")

    @property
    def errored(self) -> bool:
        return self.worker.dead

    async def generate(self, *args: Any, **kwargs: Any) -> AsyncIterator[Any]:
        given = bound(self._package.signatures["generate"], args, kwargs)
        key, collector = given["request_id"], Collector()
        assert isinstance(key, str)
        if key in self._collectors:
            raise ValueError(f"Request id {key} already running.")
        self._loop = asyncio.get_running_loop()
        try:
            self._meet_trouble(given["prompt"]["prompt_token_ids"])
            work = self._make_work(given, collector)
        except self._package.raised_as_they_are:
            raise
        except Exception as error:
            raise EngineGenerateError() from error
        await asyncio.sleep(0.002)  # it asks its core first, and until then an abort finds nothing
        if self.errored:
            raise EngineDeadError("EngineCore encountered an issue.")
        self._collectors[key] = collector
        if guide_text(given["sampling_params"].structured_outputs) == UNCOMPILABLE:
            # `grammar_compile_error_reqs`: the scheduler ends the request without a reason.
            collector.put(self._output(Emission(work, None, finish="error")))
        else:
            self.worker.submit(work)
        try:
            finished = False
            while not finished:
                output = await collector.get()
                finished = output.finished
                yield output
        except (asyncio.CancelledError, GeneratorExit):
            await self.abort(key)
            raise
        finally:
            self._collectors.pop(key, None)

    def _meet_trouble(self, ids: list[int]) -> None:
        trouble = self._package.behaviour.trouble.get(ids[0]) if ids else None
        if trouble is not None:
            raise trouble

    def _make_work(self, given: dict[str, Any], collector: Collector) -> Work:
        prompt, params = given["prompt"], given["sampling_params"]
        assert prompt["type"] == "token"
        ids = prompt["prompt_token_ids"]
        if type(ids) is not list or not ids:
            raise VLLMValidationError("The decoder prompt cannot be empty")
        if len(ids) >= self.args.max_model_len:
            raise VLLMValidationError(f"The decoder prompt (length {len(ids)}) is longer than")
        if params.output_kind is not RequestOutputKind.DELTA:
            raise AssertionError("the kind DELTA is what the runtime reads")
        if params.structured_outputs is not None and self.args.skip_tokenizer_init:
            raise VLLMValidationError("Structured outputs requires a tokenizer")
        if params.structured_outputs is not None:
            validate_guide(params.structured_outputs)
        if given["priority"] and self.args.scheduling_policy != "priority":
            raise VLLMValidationError("Got priority but Priority scheduling is not enabled.")
        if params.logprobs is not None and self.args.logprobs_mode != "raw_logprobs":
            raise AssertionError("log-probabilities might be of the logits after temperature")
        if params.logprobs is not None and params.logprobs > self.args.max_logprobs:
            raise VLLMValidationError(f"Requested sample logprobs of {params.logprobs}")
        self.requests.append((ids, params, given["priority"]))
        self._hold_bad_words(params._bad_words_token_ids or ())
        stops = {*params.stop_token_ids}
        if not params.ignore_eos:
            stops.add(EOS)
        return Work(
            given["request_id"],
            ids,
            params.max_tokens or 16,
            frozenset(stops),
            Chooser(self._wishes(ids, params)),
            emit_on(self._loop, lambda emission: collector.put(self._output(emission))),
            given["priority"],
            params.seed is not None,
        )

    def _hold_bad_words(self, words: Sequence[Sequence[int]]) -> None:
        """More than the worker's fixed buffers hold kills it (sample/bad_words.py)."""
        most = int(os.environ.get("VLLM_MAX_NUM_BAD_WORDS", "128"))
        tokens = int(os.environ.get("VLLM_MAX_BAD_WORDS_TOTAL_TOKENS", "1024"))
        if len(words) > most or sum(map(len, words)) > tokens:
            self._package.behaviour.die_at_step = 1

    def _wishes(self, ids: list[int], params: Any) -> Wishes:
        seed = params.seed
        if seed is not None and not -(2**63) <= seed < 2**63:
            raise OverflowError("Python int too large to convert to C long")  # in the worker
        guide = params.structured_outputs
        return Wishes(
            ids,
            self._vocab_size,
            temperature=params.temperature,
            top_k=max(params.top_k, 0),
            top_p=params.top_p,
            min_p=params.min_p,
            seed=seed,
            repetition_penalty=params.repetition_penalty,
            presence_penalty=params.presence_penalty,
            frequency_penalty=params.frequency_penalty,
            bias=params.logit_bias or {},
            bad_words=params._bad_words_token_ids or (),
            banned_before=params.min_tokens,
            banned=frozenset(params.stop_token_ids),
            guide=None if guide is None else guide_tokens(guide),
            guide_end=frozenset(params.stop_token_ids),
            logprobs=params.logprobs,
            min_p_first=True,
        )

    def _output(self, emission: Emission) -> Any:
        """A `RequestOutput` of the kind DELTA."""
        work, logprobs = emission.work, None
        if emission.logprobs is not None:
            logprobs = [
                {one: SimpleNamespace(logprob=value) for one, value in emission.logprobs.items()}
            ]
        completion = self._package.completion_output(
            index=0,
            text="",
            cumulative_logprob=None,
            token_ids=[] if emission.token is None else [emission.token],
            logprobs=logprobs,
            finish_reason=emission.finish or None,
            stop_reason=emission.token if emission.finish == "stop" else None,
        )
        metrics = self._package.request_stats(scheduled_ts=work.scheduled_at)
        finished = bool(emission.finish)
        return SimpleNamespace(
            request_id=work.key, outputs=[completion], finished=finished, metrics=metrics
        )

    async def abort(self, *args: Any, **kwargs: Any) -> None:
        key = bound(self._package.signatures["abort"], args, kwargs)["request_id"]
        collector = self._collectors.get(key)
        work = self.worker.abort(key)
        if collector is not None and work is not None:
            collector.put(self._output(Emission(work, None, finish="abort")))

    def shutdown(self, *args: Any, **kwargs: Any) -> None:
        bound(self._package.signatures["shutdown"], args, kwargs)
        self.worker.shutdown()

    def _report(self) -> None:
        active, waiting = self.worker.counts
        package = self._package
        stats = package.scheduler_stats(
            num_running_reqs=active,
            num_waiting_reqs=waiting,
            kv_cache_usage=self.worker.blocks_used / (BLOCKS - 1),
            prefix_cache_stats=package.cache_stats(queries=10, hits=10 * self.worker.hit_rate),
        )
        if self._loop is not None and not self._loop.is_closed():
            for logger in self._loggers:
                given = bound(package.signatures["record"], (stats, None), {"engine_idx": 0})
                self._loop.call_soon_threadsafe(functools.partial(logger.record, **given))

    def _die(self) -> None:
        if self._loop is not None and not self._loop.is_closed():
            error = EngineDeadError("EngineCore encountered an issue.")
            for collector in list(self._collectors.values()):
                self._loop.call_soon_threadsafe(collector.put, error)


def validate_guide(guide: Any) -> None:
    """`SamplingParams._validate_structured_outputs`: before the core gets the request."""
    if guide.choice:  # `choice_as_grammar` of 0.32 escapes quotes and backslashes alone
        if any("\n" in choice or "\r" in choice for choice in guide.choice):
            raise ValueError("Failed to transform choices into a grammar: a string does not end")
        return
    kind = "json_schema" if guide.json else "regex" if guide.regex else "ebnf_grammar"
    try:
        check_grammar(kind, guide_text(guide))
    except RuntimeError as error:
        raise ValueError(f"Failed to transform {kind} into a grammar: {error}") from error


def guide_text(guide: Any) -> str:
    """ "" without a guide."""
    return "" if guide is None else str(guide.json or guide.regex or guide.grammar)


def guide_tokens(guide: Any) -> list[int]:
    """The fake's grammars have one word each: the guide's own bytes, or the first choice."""
    return list((guide.choice[0] if guide.choice else guide_text(guide)).encode())
