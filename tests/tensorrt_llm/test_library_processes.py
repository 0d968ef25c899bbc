"""The runtimes whose library has its own workers, each in a real engine process."""

from __future__ import annotations

import numpy as np
import pytest
from token_engine.interface import EngineLoadError

from tests.support.paths import FAKES
from tests.support.process_suite import Opened, ProcessSuite, ask, model_tokens
from tests.support.process_suite import replay as replay

SITE = FAKES / "libraries" / "site"


class TestTensorRtLlm(ProcessSuite):
    runtime = "tensorrt_llm"
    site = FAKES / "tensorrt_llm" / "site"
    version = "1_2"
    library = "TensorRT-LLM"

    @pytest.mark.parametrize("version", ["1_0", "1_2", "head"])
    def test_in_the_servers_own_interpreter(self, opened: Opened, version: str) -> None:
        """As in NVIDIA's image, which has the library on its path."""
        room = opened(python="", version=version)
        assert ask(room, 12).tokens() == model_tokens(room, 12)

    def test_a_refusal(self, opened: Opened) -> None:
        refused = ask(opened(), 20, logprobs=np.int32(3))
        assert refused.events.get(timeout=500) == (
            "logprobs is 3; with the tensorrt_llm runtime it must be 0, the chosen token's "
            "(TRTLLMSampler)"
        )

    def test_workers_that_report_their_end_to_all_requests_are_replaced(
        self, opened: Opened
    ) -> None:
        self.test_workers_that_die_or_hang_are_replaced(opened, "broadcast_at_step")

    def test_a_seed_that_would_not_be_kept_is_refused(self, opened: Opened) -> None:
        """Through room 2, which adds no message of its own."""
        self.version = "head"  # type: ignore[misc]
        room = opened()
        refused = ask(room, 20, temperature=np.float32(0.9), seed=np.uint64(7))
        assert refused.events.get(timeout=500) == (
            "seed is 7; with the tensorrt_llm runtime it must be none, as equal seeds would not "
            "draw equal tokens (TorchSampler)"
        )
        assert len(ask(room, 20, temperature=np.float32(0.9)).tokens()) == 20

    def test_a_machine_without_gpus(self, opened: Opened) -> None:
        with pytest.raises(EngineLoadError, match=r"no NVIDIA GPU is visible .*make doctor"):
            opened(gpus=0)


class TestVllm(ProcessSuite):
    runtime = "vllm"
    site = SITE
    version = "0_32"
    library = "vLLM"

    def test_a_refusal(self, opened: Opened) -> None:
        refused = ask(opened(), 5, temperature=np.float32(3.0))
        assert refused.events.get(timeout=500) == (
            "temperature is 3; with the vllm runtime it must be 0, or 0.01 to 2"
        )

    @pytest.mark.parametrize(
        ("python", "expected"),
        [
            ("/nonexistent/bin/python", "engine_python is '/nonexistent/bin/python' and must be"),
            ("python3", "engine_python is 'python3' and must be the absolute path"),
        ],
    )
    def test_an_interpreter_that_is_not_there_is_named(
        self, opened: Opened, python: str, expected: str
    ) -> None:
        with pytest.raises(EngineLoadError, match=expected):
            opened(python=python)


class TestSglang(ProcessSuite):
    runtime = "sglang"
    site = SITE
    version = "0_5_23"
    library = "SGLang"
    death = "the engine process was killed by signal 3"  # SIGQUIT, of the library

    def test_a_refusal(self, opened: Opened) -> None:
        asked = {"presence_penalty": np.float32(1), "return_log_probs": True}
        assert ask(opened(), 5, **asked).events.get(timeout=500) == (
            "return_log_probs is true; with the sglang runtime it must be false with "
            "presence_penalty"
        )

    def test_min_p_does_not_end_the_engine(self, opened: Opened) -> None:
        """SGLang asserts that no request has a seed where one has a min_p, and dies otherwise."""
        room = opened()
        other = ask(room, 40)
        sampled = {"temperature": np.float32(1), "min_p": np.float32(0.1)}
        for more in ({}, {"seed": np.uint64(7)}):
            said = str(ask(room, 5, **sampled, **more).events.get(timeout=500))
            assert said.startswith("min_p is 0.1; with the sglang runtime it must be 0: its ")
        assert other.tokens() == model_tokens(room, 40)
