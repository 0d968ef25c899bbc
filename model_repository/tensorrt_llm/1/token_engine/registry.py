"""The runtimes by name. A factory imports its library only when it is called."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from engine_config import EngineConfig, EngineConfigError

from token_engine.interface import Guide, TokenEngine

# Features that not every runtime has. The room refuses a request that wants a missing one.
Feature = Literal[
    "min_p",
    "repetition_penalty",
    "presence_penalty",
    "frequency_penalty",
    "min_tokens",
    "bad_words",
    "embedding_bias",
    "logprobs",  # of the chosen token
    "top_logprobs",
    "guided_decoding",
]


@dataclass(frozen=True)
class Runtime:
    """One line of the registry."""

    load: Callable[[Path, EngineConfig], TokenEngine]
    features: frozenset[Feature]
    # Raises `ValueError` for a guide that the runtime cannot serve. None: the library decides when
    # it has the request, and its refusal ends only that request.
    check_guide: Callable[[Guide], None] | None = None
    samples: bool = True  # whether it chooses tokens by their probabilities at all


def _openvino(directory: Path, config: EngineConfig) -> TokenEngine:
    from token_engine.openvino_runtime.engine import OpenVinoEngine

    return OpenVinoEngine(directory, config)


def _check_openvino_guide(guide: Guide) -> None:
    from token_engine.openvino_runtime.guide_grammar.guides import check_guide

    check_guide(guide)


def _replay(directory: Path, config: EngineConfig) -> TokenEngine:
    from token_engine.replay import ReplayEngine

    return ReplayEngine(config)


def _tensorrt_llm(directory: Path, config: EngineConfig) -> TokenEngine:
    from token_engine.tensorrt_llm_runtime.engine import TensorRtLlmEngine

    return TensorRtLlmEngine(directory, config)


def _vllm(directory: Path, config: EngineConfig) -> TokenEngine:
    from token_engine.vllm_runtime.engine import VllmEngine

    return VllmEngine(directory, config)


def _sglang(directory: Path, config: EngineConfig) -> TokenEngine:
    from token_engine.sglang_runtime.engine import SglangEngine

    return SglangEngine(directory, config)


RUNTIMES: dict[str, Runtime] = {
    # Not its presence and frequency penalties, which depend on the logit's sign (2026.4).
    "openvino": Runtime(
        _openvino,
        frozenset({"min_p", "repetition_penalty", "min_tokens", "logprobs", "guided_decoding"}),
        _check_openvino_guide,
    ),
    "replay": Runtime(
        _replay,
        # Sampling parameters have no effect on a runtime that does not sample.
        frozenset(
            {"min_p", "repetition_penalty", "presence_penalty", "frequency_penalty", "min_tokens"}
        ),
        samples=False,
    ),
    # The runtime itself refuses what some versions, samplers or backends do not honour.
    "tensorrt_llm": Runtime(_tensorrt_llm, frozenset(get_args(Feature))),
    "vllm": Runtime(_vllm, frozenset(get_args(Feature))),
    # Its repetition penalty ignores the prompt, and it has no bad words (0.5.23).
    "sglang": Runtime(_sglang, frozenset(get_args(Feature)) - {"repetition_penalty", "bad_words"}),
}


def find_runtime(name: str) -> Runtime:
    """The runtime of that name; raises `EngineConfigError`."""
    if name not in RUNTIMES:
        raise EngineConfigError(
            f"runtime is {name!r} and must be one of {', '.join(sorted(RUNTIMES))}"
        )
    return RUNTIMES[name]


def make_engine(directory: Path, config: EngineConfig) -> TokenEngine:
    """Load the engine that `config.runtime` names from its directory."""
    return find_runtime(config.runtime).load(directory, config)
