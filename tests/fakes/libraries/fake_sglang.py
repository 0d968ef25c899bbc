"""A fake `sglang`, made of recorded signatures, that behaves as 0.5.23's sources say.

Sources: sglang/srt/entrypoints/engine.py, managers/{tokenizer_manager,scheduler,schedule_batch,
tp_worker}.py, sampling/sampling_params.py, sampling/penaltylib, layers/sampler.py.
"""

from __future__ import annotations

import asyncio
import json
import math
import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np

from tests.fakes.libraries.choices import Chooser, Wishes
from tests.fakes.libraries.grammars import UNCOMPILABLE, check_grammar
from tests.fakes.libraries.signatures import bound, load_signatures, module, record_class
from tests.fakes.libraries.spawned import spawn_a_process
from tests.fakes.libraries.worker import BLOCKS, Behaviour, Emission, Work, Worker, emit_on

EOS = frozenset({2, 3, 4})  # of the model's config and its tokenizer
WHOLE_VOCABULARY = 1 << 30


def check_params(params: Any) -> None:
    """`SamplingParams.__post_init__` and `verify`."""
    if 0 <= params.temperature < 1e-6:
        params.temperature, params.top_k = 1.0, 1
    if params.top_k == -1 or params.top_k == "<TOP_K_ALL>":
        params.top_k = WHOLE_VOCABULARY
    checks = {
        "temperature": math.isfinite(params.temperature) and params.temperature >= 0,
        "top_p": 0 < params.top_p <= 1,
        "top_k": params.top_k >= 1,
        "min_p": 0 <= params.min_p <= 1,
        "presence_penalty": -2 <= params.presence_penalty <= 2,
        "frequency_penalty": -2 <= params.frequency_penalty <= 2,
        "repetition_penalty": 0 < params.repetition_penalty <= 2,
        "min_new_tokens": 0 <= params.min_new_tokens <= params.max_new_tokens,
        "sampling_seed": params.sampling_seed is None or -(2**63) <= params.sampling_seed < 2**63,
        "logit_bias": all(isinstance(key, str) for key in params.logit_bias or {}),
    }
    for name, right in checks.items():
        if not right:
            raise ValueError(f"{name} is wrong, got {getattr(params, name)}.")
    guides = (params.json_schema, params.regex, params.ebnf, params.structural_tag)
    if sum(one is not None for one in guides) > 1:
        raise ValueError("Only one of json_schema, regex, ebnf, or structural_tag can be set.")


def grammar_refusal(params: Any) -> str:
    """`GrammarManager`: what a request's abort says whose grammar does not compile."""
    named = {"json": params.json_schema, "regex": params.regex, "ebnf": params.ebnf}
    for name, text in named.items():
        kind = {"json": "json_schema", "ebnf": "ebnf_grammar"}.get(name, name)
        try:
            if text == UNCOMPILABLE:
                raise RuntimeError("Cannot find field nowhere in #/nowhere")
            if text is not None and text != "$$ANY$$":
                check_grammar(kind, text)
        except RuntimeError as error:
            return f"Failed to compile {name} grammar: {error}"
    return ""


class Package:
    """The modules of one version."""

    def __init__(self, version: str, behaviour: Behaviour) -> None:
        self.signatures = load_signatures(f"sglang_{version}")
        self.behaviour = behaviour
        self.llms: list[Any] = []  # engines, in order of their making
        self.sampling_params = record_class(
            "SamplingParams", self.signatures["sampling_params"], __post_init__=check_params
        )
        self.load_snapshot = record_class("LoadSnapshot", self.signatures["load_snapshot"])
        self.server_args = record_class(
            "ServerArgs",
            [[name, value, kind] for name, value, kind in self.signatures["server_args"]],
            __struct_fields__=tuple(one[0] for one in self.signatures["server_args"]),
        )

    def modules(self) -> dict[str, ModuleType]:
        """By the name they are imported under."""
        package = self

        class BoundEngine(Engine):
            def __init__(self, **kwargs: Any) -> None:
                super().__init__(package, kwargs)

        capability, count = self.behaviour.capability, self.behaviour.gpus
        cuda = SimpleNamespace(
            device_count=lambda: count if capability else 0,
            get_device_name=lambda index: "NVIDIA Fake",
            get_device_capability=lambda index: capability,
        )
        modules = {
            "torch": {"cuda": cuda},
            "sglang": {"__version__": self.signatures["version"], "fake": self},
            "sglang.srt": {},
            "sglang.srt.entrypoints": {},
            "sglang.srt.entrypoints.engine": {"Engine": BoundEngine},
            "sglang.srt.server_args": {"ServerArgs": self.server_args},
        }
        return {
            name: module(name, **({"__path__": []} if name != "torch" else {}), **values)
            for name, values in modules.items()
        }


class State:
    """The state of one request in the tokenizer manager."""

    def __init__(self) -> None:
        self.outputs: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self.output_ids: list[int] = []
        self.logprobs: list[Any] = []
        self.top_logprobs: list[Any] = []
        self.finished = False  # then what still comes is dropped
        self.abort_sent = False


class Engine:
    """sglang/srt/entrypoints/engine.py, and its tokenizer manager."""

    def __init__(self, package: Package, kwargs: dict[str, Any]) -> None:
        self._package = package
        self.server_args = package.server_args(**kwargs)
        args = self.server_args
        config = json.loads((Path(args.model_path) / "config.json").read_text(encoding="utf-8"))
        self._vocab_size = int(config["vocab_size"])
        if args.context_length > config["max_position_embeddings"]:
            raise ValueError("context_length is greater than the derived context_length")
        if args.tp_size * args.pp_size > 8:
            raise RuntimeError("Rank 0 scheduler died during initialization.")
        self.worker = Worker(
            args.max_running_requests,
            args.chunked_prefill_size,
            args.context_length,
            package.behaviour,
        )
        self.worker.on_death = end_this_process
        if package.behaviour.spawns:
            spawn_a_process(package.behaviour.spawns)
        self._states: dict[str, State] = {}
        self.requests: list[tuple[list[int], Any, dict[str, Any]]] = []
        self.tokenizer_manager = SimpleNamespace(
            abort_request=self._abort_request, get_loads=self._get_loads
        )
        package.llms.append(self)

    async def async_generate(self, *args: Any, **kwargs: Any) -> Any:
        given = bound(self._package.signatures["async_generate"], args, kwargs)
        stream = self._generate(given)
        return stream if given["stream"] is True else await stream.__anext__()

    async def _generate(self, given: dict[str, Any]) -> AsyncIterator[dict[str, Any]]:
        rid, ids, args = given["rid"], given["input_ids"], self.server_args
        if rid in self._states:
            raise ValueError(f"Duplicate request ID detected: {rid}")
        params = self._package.sampling_params(**given["sampling_params"])
        await asyncio.sleep(0)  # until here an abort finds nothing
        if len(ids) >= args.context_length:
            raise ValueError(f"The input ({len(ids)} tokens) is longer than the model's context")
        if params.min_new_tokens and args.skip_tokenizer_init:
            raise ValueError("min_new_tokens is unavailable when skip_tokenizer_init=True")
        if given["priority"] and not args.enable_priority_scheduling:
            raise ValueError("Using priority requires --enable-priority-scheduling")
        state = self._states[rid] = State()
        longest = args.context_length - 1  # max_req_len of tp_worker.py
        self.requests.append((ids, params, given))
        if len(ids) >= longest - 5:
            del self._states[rid]
            yield self._refusal(rid, f"Input length ({len(ids)} tokens) exceeds the maximum")
            return
        said = grammar_refusal(params)
        if said:
            del self._states[rid]
            yield self._refusal(rid, said)
            return
        limit = min(params.max_new_tokens, longest - len(ids) - 1)
        loop = asyncio.get_running_loop()
        work = self._work(rid, ids, params, given, limit)
        work.emit = emit_on(loop, lambda emission: self._take(state, emission, given))
        self.worker.submit(work)
        try:
            finished = False
            while not finished:
                output = await state.outputs.get()
                while not state.outputs.empty():
                    output = self._joined(output, state.outputs.get_nowait())
                finished = output["meta_info"]["finish_reason"] is not None
                yield output
        except BaseException:
            self.worker.abort(rid)
            raise
        finally:
            self._states.pop(rid, None)

    def _work(
        self, rid: str, ids: list[int], params: Any, given: dict[str, Any], limit: int
    ) -> Work:
        stops = frozenset(params.stop_token_ids or ()) | EOS
        args = self.server_args
        seeds = args.enable_deterministic_inference is True
        guide = params.json_schema or params.regex or params.ebnf
        if guide is not None and args.grammar_backend == "none":
            raise ValueError("Grammar-based generation is not supported")
        if guide == "$$ANY$$" and args.grammar_backend != "xgrammar":
            raise ValueError("Failed to compile json grammar: expected value at line 1 column 1")
        wishes = Wishes(
            ids,
            self._vocab_size,
            temperature=0 if params.top_k == 1 else params.temperature,
            top_k=0 if params.top_k == WHOLE_VOCABULARY else params.top_k,
            top_p=params.top_p,
            min_p=params.min_p,
            seed=_seed(params) if seeds else None,
            presence_penalty=params.presence_penalty,
            frequency_penalty=params.frequency_penalty,
            bias={int(key): value for key, value in (params.logit_bias or {}).items()},
            banned_before=params.min_new_tokens,
            banned=stops,
            guide=None if guide is None else list(guide.encode()),
            guide_end=frozenset(params.stop_token_ids or EOS),
            logprobs=given["top_logprobs_num"] if given["return_logprob"] else None,
            raw_logprobs=False,
            top_p_of_all=seeds or not params.min_p,  # else FlashInfer's kernels, one after another
        )
        self._sample_or_die(params, wishes, seeds)
        if os.environ.get("SGLANG_RETURN_ORIGINAL_LOGPROB") != "1":
            raise AssertionError("log-probabilities would be of the logits after temperature")
        sign = 1 if args.schedule_low_priority_values_first is True else -1
        return Work(
            rid,
            ids,
            limit,
            frozenset() if params.ignore_eos else stops,  # ignore_eos: no stop id stops either
            Chooser(wishes),
            lambda emission: None,
            sign * (given["priority"] or 0),
        )

    def _sample_or_die(self, params: Any, wishes: Wishes, seeds: bool) -> None:
        """What ends the scheduler's process, and all requests: an assertion about min_p in a batch
        that has seeds (sampler.py, `top_k_top_p_min_p_sampling_from_probs_torch`), and an
        invalid distribution (`torch.multinomial`)."""
        drawn = wishes.temperature != 0
        largest = max((abs(bias) for bias in wishes.bias.values()), default=0.0)
        infinite = largest / (wishes.temperature or 1.0) > np.finfo(np.float32).max
        if drawn and ((seeds and params.min_p > 0) or infinite):
            self._package.behaviour.die_at_step = 1

    def _take(self, state: State, emission: Emission, given: dict[str, Any]) -> None:
        if state.finished:
            return
        state.finished = bool(emission.finish)
        offset = len(state.output_ids)
        if emission.finish == "nan":  # for an invalid token (`_check_vocab_boundary_finish`)
            state.output_ids.append(min(EOS))
        elif emission.token is not None:
            state.output_ids.append(emission.token)
        if emission.logprobs is not None and emission.token is not None:
            values = sorted(emission.logprobs.items(), key=lambda pair: -pair[1])
            state.logprobs.append((emission.logprobs[emission.token], emission.token, None))
            best = [(value, one, None) for one, value in values[: given["top_logprobs_num"]]]
            state.top_logprobs.append(best or None)
        state.outputs.put_nowait(self._output(state, emission, offset, given))

    def _output(
        self, state: State, emission: Emission, offset: int, given: dict[str, Any]
    ) -> dict[str, Any]:
        incremental = self.server_args.incremental_streaming_output is True
        since = offset if incremental else 0
        reasons: dict[str, Any] = {
            "": None,
            "stop": {"type": "stop", "matched": emission.token},
            "nan": {"type": "stop", "matched": "NaN happened"},
            "length": {"type": "length", "length": len(state.output_ids)},
            "abort": {"type": "abort", "message": "Aborted", "status_code": None},
            "error": {"type": "abort", "message": "NaN in the logits", "status_code": 500},
        }
        meta_info: dict[str, Any] = {
            "id": emission.work.key,
            "finish_reason": reasons[emission.finish],
            "prompt_tokens": len(emission.work.prompt),
            "completion_tokens": len(state.output_ids),
            "cached_tokens": int(len(emission.work.prompt) * self.worker.hit_rate),
        }
        if given["return_logprob"]:
            meta_info["output_token_logprobs"] = state.logprobs[since:]
            if given["top_logprobs_num"] > 0:
                meta_info["output_top_logprobs"] = state.top_logprobs[since:]
        return {"text": "", "output_ids": state.output_ids[since:], "meta_info": meta_info}

    def _joined(self, old: dict[str, Any], new: dict[str, Any]) -> dict[str, Any]:
        """`_coalesce_streaming_chunks`."""
        if self.server_args.incremental_streaming_output is not True:
            return new
        meta_info = dict(new["meta_info"])
        for key in ("output_token_logprobs", "output_top_logprobs"):
            if key in meta_info:
                meta_info[key] = [*old["meta_info"][key], *meta_info[key]]
        return {**new, "output_ids": old["output_ids"] + new["output_ids"], "meta_info": meta_info}

    def _refusal(self, rid: str, message: str) -> dict[str, Any]:
        reason = {"type": "abort", "message": message, "status_code": 400}
        return {"text": "", "output_ids": [], "meta_info": {"id": rid, "finish_reason": reason}}

    def _abort_request(self, *args: Any, **kwargs: Any) -> None:
        """Aborts every request whose id begins with that one (`Scheduler.abort_request`)."""
        rid = bound(self._package.signatures["abort_request"], args, kwargs)["rid"]
        asked = self._states.get(rid)
        if not rid or asked is None or asked.abort_sent:
            return
        asked.abort_sent = True
        given = {"return_logprob": False, "top_logprobs_num": 0}
        for key in [key for key in self._states if key.startswith(rid)]:
            state, work = self._states[key], self.worker.abort(key)
            if work is not None:
                state.finished = True
                output = self._output(state, Emission(work, None, finish="abort"), 0, given)
                state.outputs.put_nowait({**output, "output_ids": []})

    async def _get_loads(self) -> list[Any]:
        active, waiting = self.worker.counts
        return [
            self._package.load_snapshot(
                num_running_reqs=active,
                num_waiting_reqs=waiting,
                num_used_tokens=self.worker.tokens_held,
                max_total_num_tokens=BLOCKS * 16,
                total_prefill_uncached_tokens=self.worker.tokens_prefilled,
            )
        ]

    def shutdown(self, *args: Any, **kwargs: Any) -> None:
        bound(self._package.signatures["shutdown"], args, kwargs)
        self.worker.shutdown()


def _seed(params: Any) -> int:
    """The seed in deterministic inference (sampling_batch_info.py)."""
    seed: int | None = params.sampling_seed
    return 42 if seed is None else seed


def end_this_process() -> None:
    """`running_phase_sigquit_handler`: the death of a scheduler takes the engine with it."""
    os.kill(os.getpid(), signal.SIGQUIT)
