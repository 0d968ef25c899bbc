"""Builds a TensorRT engine from an NVFP4 checkpoint, with TensorRT-LLM 1.0 to 1.2.

Started by `tensorrt_llm_step.py` with one JSON object: checkpoint, output, parallel (arguments
of `LLM`) and build (fields of `BuildConfig`). It saves the engine as the library's own example does
(examples/llm-api/_tensorrt_engine).
"""

from __future__ import annotations

import importlib
import json
import sys
from typing import Any


def main(job: dict[str, Any]) -> int:
    """Build and save; returns the exit code."""
    package: Any = importlib.import_module("tensorrt_llm")
    engine: Any = importlib.import_module("tensorrt_llm._tensorrt_engine")
    config = package.BuildConfig()
    for name, value in job["build"].items():
        if not hasattr(config, name):  # setting it would have no effect
            print(f"error: this version's BuildConfig has no {name}", file=sys.stderr)
            return 1
        setattr(config, name, value)
    try:
        with engine.LLM(
            model=job["checkpoint"],
            skip_tokenizer_init=True,
            build_config=config,
            **job["parallel"],
        ) as llm:
            llm.save(job["output"])
    except Exception as error:  # of TensorRT, MPI, CUDA and the library itself
        print(f"error: {str(error).strip() or type(error).__name__}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":  # the library's workers import this file again
    sys.exit(main(json.loads(sys.argv[1])))
