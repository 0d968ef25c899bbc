"""The guide prover: a process in which a guide is read and compiled before the engine meets it.

Started by `prover_process.py`: `python -m token_engine.openvino_runtime.prover GUIDES_DIRECTORY FD
LIMITS...`. A guide that takes too long or too much memory, or crashes the library (xgrammar 0.1
overflows the stack on deep nesting), ends this process and nothing else. It ends when the pipe
closes or when its parent dies.
"""

from __future__ import annotations

import math
import os
import resource
import sys
import time
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
from parent_death import die_with_parent

from token_engine.interface import Guide
from token_engine.openvino_runtime.guide_grammar.grammar import GuideError
from token_engine.openvino_runtime.guide_grammar.guides import guide_to_ebnf
from token_engine.openvino_runtime.library import import_openvino
from token_engine.openvino_runtime.prover_process import Disproof, Proof, ProverLimits, ProverReady

ANY_GRAMMAR = 'root ::= "a"\n'
NICENESS = 10  # streams come first
WARM_UP_AFTER_S = 2.0  # without a guide: a server that lives shorter need not pay for it


def main(directory: Path, connection: Connection, limits: ProverLimits) -> int:
    """Prove one guide after the other. Returns the process's exit code."""
    die_with_parent()
    os.nice(NICENESS)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_DATA, (limits.process_bytes, limits.process_bytes))
    connection.poll(WARM_UP_AFTER_S)
    compiler = Compiler(directory)
    compiler.compile(ANY_GRAMMAR)  # the first takes longer
    try:
        connection.send(ProverReady())
        while True:
            connection.send(_prove(compiler, connection.recv(), limits))
    except (EOFError, BrokenPipeError, ConnectionResetError):
        pass  # the engine is gone
    return 0


def _prove(compiler: Compiler, guide: Guide, limits: ProverLimits) -> Proof | Disproof:
    started = time.process_time()
    # The kernel ends the process with SIGXCPU; its clock counts whole seconds.
    soft = math.ceil(started) + limits.cpu_seconds
    resource.setrlimit(resource.RLIMIT_CPU, (soft, resource.RLIM_INFINITY))
    held = _resident_bytes()
    try:
        ebnf = guide_to_ebnf(guide.kind, guide.text)
        compiler.compile(ebnf)
    except GuideError as error:
        return Disproof(str(error))
    except MemoryError:
        return Disproof(
            f"takes more than {limits.process_bytes >> 20} MiB to compile; it must take less"
        )
    retained = max(0, _resident_bytes() - held)
    if retained > limits.retained_bytes:
        return Disproof(
            f"takes {retained >> 20} MiB when compiled; it must take at most "
            f"{limits.retained_bytes >> 20}"
        )
    return Proof(ebnf, time.process_time() - started, retained)


class Compiler:
    """Compiles a grammar by generating one token under it, on a model that costs nothing.

    OpenVINO GenAI has no other way to the compiler. What `tokenizer` has compiled is compiled for
    every pipeline that has the same `tokenizer`.
    """

    def __init__(self, directory: Path, tokenizer: Any = None) -> None:
        self._ov, self._genai = import_openvino()
        scheduler = self._genai.SchedulerConfig()
        scheduler.num_kv_blocks, scheduler.cache_size = 2, 0
        self._pipeline = self._genai.ContinuousBatchingPipeline(
            str(directory),
            tokenizer or self._genai.Tokenizer(str(directory)),
            scheduler,
            "CPU",
            INFERENCE_NUM_THREADS=1,
        )

    def compile(self, ebnf: str) -> None:
        """Blocks without holding the interpreter. A failure leaves this compiler unusable."""
        config = self._genai.GenerationConfig()
        config.max_new_tokens = 1
        config.structured_output_config = self._genai.StructuredOutputConfig(grammar=ebnf)
        self._pipeline.generate([self._ov.Tensor(np.zeros((1, 1), np.int64))], [config])


def _resident_bytes() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize()


if __name__ == "__main__":
    # Without the library's destructors, which complain and may hang after a failure.
    numbers = [int(argument) for argument in sys.argv[2:]]
    os._exit(main(Path(sys.argv[1]), Connection(numbers[0]), ProverLimits(*numbers[1:])))
