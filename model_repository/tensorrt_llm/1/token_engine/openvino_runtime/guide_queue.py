"""Guides on their way into the OpenVINO pipeline.

The library compiles a grammar inside the step that samples a request's first token, where a crash
or an endless compile would take all requests along, and it keeps every grammar forever. So
`prover_process.py` proves a guide first, while other requests go on. The step itself compiles a
guide that compiles quickly. A slow one is compiled on a thread before, and the step finds it done;
meanwhile no other grammar may be compiled, because the library has one lock.
"""

from __future__ import annotations

import dataclasses
import json
import os
import threading
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from token_engine.interface import (
    EngineLoadError,
    Fault,
    GenerationRequest,
    Guide,
    UnsupportedParameter,
    lacks,
)
from token_engine.openvino_runtime.prover import NICENESS, Compiler
from token_engine.openvino_runtime.prover_process import (
    Disproof,
    Proof,
    ProverLimits,
    ProverLost,
    ProverProcess,
)

LIMITS = ProverLimits()
FOLDER = "guides"  # in the engine's folder
QUICK_CPU_SECONDS = 0.1  # one step may be as much longer
MOST_REFUSALS = 256  # remembered; a guide has up to 64 KiB
MOST_REMEMBERED_BYTES = 64 * 2**20  # of guides and grammars that a new pipeline need not prove
# What all compiled grammars may hold together. Then new ones are refused until the pipeline is
# loaded again, which happens as soon as it is empty.
MOST_BYTES = 2**30
BYTES_BESIDE = 64 * 1024  # what a grammar takes at least, the library's tables included


@dataclass(frozen=True, slots=True)
class GuideRefusal:
    """Why a request cannot have its guide: one sentence, and whose fault it is."""

    sentence: str
    fault: Fault


class GuideQueue:
    """Says of each guide whether the pipeline may have it. Driven by the engine's steps."""

    def __init__(
        self,
        engine_directory: Path,
        eos_token_ids: list[int],
        genai: Any,
        before: GuideQueue | None = None,
    ) -> None:
        """`before` is the queue of the pipeline before, whose proofs hold for this one too."""
        self._directory = engine_directory / FOLDER
        self._eos_token_ids = tuple(eos_token_ids)
        self._genai = genai
        try:
            self.tokenizer = genai.Tokenizer(str(self._directory))  # for the pipeline
            self.logits_size = _logits_size(self._directory)  # of the engine's model too
            self._is_text = _text_tokens(engine_directory)
        except Exception as error:  # the library raises RuntimeError for everything
            raise EngineLoadError(
                f"{self._directory} cannot be loaded ({str(error).strip().splitlines()[-1]}); "
                "rebuild the engine with 'make engine'"
            ) from error
        self._prover = ProverProcess(self._directory, LIMITS)
        self._asked: dict[Guide, None] = {}  # since the last `work`, in order
        self._proving: Guide | None = None
        self._proven: dict[Guide, Proof] = {}  # for this pipeline
        self._remembered = before.remembered() if before else {}
        self._refused: OrderedDict[Guide, GuideRefusal] = OrderedDict()
        self._slow: list[Guide] = []  # proven; to be compiled on the thread, one after the other
        self._thread: threading.Thread | None = None
        self._is_open = True  # for guides to go into the pipeline while others are in `_slow`
        self._held_bytes = 0

    @property
    def is_full(self) -> bool:
        """Whether no further guide is taken: a new queue and pipeline are due."""
        return self._held_bytes > MOST_BYTES

    def ask(self, guide: Guide) -> Guide | GuideRefusal | None:
        """The guide if the pipeline may have it now, None while that is undecided.

        Ask again before each `work`: a guide that nobody asks for is not begun.
        """
        if guide in self._remembered and not self.is_full:
            self._accept(guide, self._remembered.pop(guide))
        if guide in self._proven:
            is_in_order = not self._slow or (self._is_open and guide not in self._slow)
            return guide if is_in_order and self._thread is None else None
        if guide in self._refused:
            self._refused.move_to_end(guide)
            return self._refused[guide]
        if self.is_full:
            return GuideRefusal("the memory for new guides is used up; try again later", "engine")
        self._asked.setdefault(guide)
        return None

    def work(self, first_token_is_due: bool, wait_seconds: float = 0.0) -> None:
        """Do the next piece of work, for at most about `wait_seconds`.

        `first_token_is_due` says that a request is in the pipeline whose grammar the pipeline has
        not met yet: it must not find the library's lock taken.
        """
        asked, self._asked = self._asked, {}
        if self._proving is None and asked:
            self._proving = next(iter(asked))
            self._prover.begin(self._proving)
        if self._proving is not None:
            self._note_result(self._proving, 0.0 if self._slow else wait_seconds)
        # After each slow guide the others get a step to go into the pipeline.
        if self._slow and not self._is_open:
            if self._thread is not None or not first_token_is_due:
                self._compile(self._slow[0], wait_seconds)
        else:
            self._is_open = not self._slow

    def apply(self, config: Any, guide: Guide) -> None:
        """Make a `GenerationConfig` follow a guide that `ask` gave back."""
        grammar = self._proven[guide].ebnf
        config.structured_output_config = self._genai.StructuredOutputConfig(grammar=grammar)

    def prepared(self, request: GenerationRequest) -> GenerationRequest:
        """The request with end ids, because a guide's end must leave something to choose.

        Raises `UnsupportedParameter` for what does not go together with a guide.
        """
        if request.min_tokens:
            # The library bans the end ids before and all others after: nothing would be left.
            raise UnsupportedParameter(
                lacks("openvino", "min_tokens", request.min_tokens, "0 with guided decoding")
            )
        end_ids = request.end_ids or self._eos_token_ids
        for token_id in end_ids:
            if self._is_text[token_id]:  # it would end the output wherever the guide takes its text
                needed = "a special token with guided decoding"
                raise UnsupportedParameter(lacks("openvino", "end_id", token_id, needed))
        return dataclasses.replace(request, end_ids=end_ids)

    def start_prover(self) -> None:
        """So that the first guide need not wait for its start. Returns at once."""
        self._prover.start()

    def remembered(self) -> dict[Guide, Proof]:
        """The proofs of this pipeline and those before, the latest that are small enough."""
        kept: dict[Guide, Proof] = {}
        size = 0
        for guide, proof in reversed([*self._remembered.items(), *self._proven.items()]):
            size += _size(guide, proof)
            if size > MOST_REMEMBERED_BYTES:
                break
            kept[guide] = proof
        return dict(reversed(kept.items()))

    def shutdown(self) -> None:
        """End the process, and wait for the thread."""
        self._prover.stop()
        if self._thread is not None:
            self._thread.join()

    def _note_result(self, guide: Guide, wait_seconds: float) -> None:
        try:
            result = self._prover.result(wait_seconds)
        except ProverLost as error:
            self._refuse(guide, f"guided decoding is not available: {error}", "engine")
            return
        if isinstance(result, Disproof):
            self._refuse(guide, f"guided_decoding_guide {result.reason}", "invalid")
        elif isinstance(result, Proof):
            self._proving = None
            self._accept(guide, result)

    def _accept(self, guide: Guide, proof: Proof) -> None:
        self._proven[guide] = proof
        self._held_bytes += proof.retained_bytes + BYTES_BESIDE + _size(guide, proof)
        if proof.cpu_seconds > QUICK_CPU_SECONDS:
            self._slow.append(guide)

    def _refuse(self, guide: Guide, sentence: str, fault: Fault) -> None:
        self._proving = None
        self._refused[guide] = GuideRefusal(sentence, fault)
        if len(self._refused) > MOST_REFUSALS:
            self._refused.popitem(last=False)

    def _compile(self, guide: Guide, wait_seconds: float) -> None:
        if self._thread is None:
            grammar = self._proven[guide].ebnf
            self._thread = threading.Thread(target=self._on_thread, args=(grammar,), daemon=True)
            self._thread.start()
        self._thread.join(wait_seconds)
        if not self._thread.is_alive():
            self._thread = None
            del self._slow[0]
            self._is_open = True

    def _on_thread(self, grammar: str) -> None:
        # A thread has its own priority, which the compiler's threads inherit.
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), NICENESS)
        Compiler(self._directory, self.tokenizer).compile(grammar)


def _size(guide: Guide, proof: Proof) -> int:
    return len(guide.text) + len(proof.ebnf)


def _logits_size(directory: Path) -> int:
    return int(json.loads((directory / "config.json").read_text(encoding="utf-8"))["vocab_size"])


def _text_tokens(engine_directory: Path) -> np.ndarray[Any, np.dtype[np.bool_]]:
    """For each token id whether it stands for text."""
    with np.load(engine_directory / "token_bytes.npz", allow_pickle=False) as table:
        lengths = np.diff(table["offsets"])
        is_text: np.ndarray[Any, np.dtype[np.bool_]] = (lengths > 0) & ~table["special"]
    return is_text
