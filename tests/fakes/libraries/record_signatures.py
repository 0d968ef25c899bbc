"""Record the signatures of vLLM and SGLang that the runtimes use, from their unpacked wheels.

    python tests/fakes/libraries/record_signatures.py vllm FOLDER > signatures/vllm_0_32.json

FOLDER is what a wheel contains; nothing of it is imported. A default that is no literal is written
as an expression in angle brackets.
"""

from __future__ import annotations

import ast
import json
import sys
from pathlib import Path
from typing import Any

REQUIRED = "<required>"

# name in the JSON file -> (file, class or "", function or "")
PLACES: dict[str, dict[str, tuple[str, str, str]]] = {
    "vllm": {
        "sampling_params": ("vllm/sampling_params.py", "SamplingParams", ""),
        "structured_outputs_params": ("vllm/sampling_params.py", "StructuredOutputsParams", ""),
        "engine_args": ("vllm/engine/arg_utils.py", "EngineArgs", ""),
        "async_engine_args": ("vllm/engine/arg_utils.py", "AsyncEngineArgs", ""),
        "from_engine_args": ("vllm/v1/engine/async_llm.py", "AsyncLLM", "from_engine_args"),
        "generate": ("vllm/v1/engine/async_llm.py", "AsyncLLM", "generate"),
        "abort": ("vllm/v1/engine/async_llm.py", "AsyncLLM", "abort"),
        "shutdown": ("vllm/v1/engine/async_llm.py", "AsyncLLM", "shutdown"),
        "tokens_input": ("vllm/inputs/engine.py", "", "tokens_input"),
        "record": ("vllm/v1/metrics/loggers.py", "StatLoggerBase", "record"),
        "completion_output": ("vllm/outputs.py", "CompletionOutput", ""),
        "scheduler_stats": ("vllm/v1/metrics/stats.py", "SchedulerStats", ""),
        "prefix_cache_stats": ("vllm/v1/metrics/stats.py", "BaseCacheStats", ""),
        "request_state_stats": ("vllm/v1/metrics/stats.py", "RequestStateStats", ""),
    },
    "sglang": {
        "sampling_params": ("sglang/srt/sampling/sampling_params.py", "SamplingParams", ""),
        # ServerArgs is put together of all these.
        "server_args": ("sglang/srt/arg_groups/fields/*.py", "*", ""),
        "async_generate": ("sglang/srt/entrypoints/engine.py", "Engine", "async_generate"),
        "shutdown": ("sglang/srt/entrypoints/engine.py", "Engine", "shutdown"),
        "load_snapshot": ("sglang/srt/managers/load_snapshot.py", "LoadSnapshot", ""),
        "abort_request": (
            "sglang/srt/managers/tokenizer_manager.py",
            "TokenizerManager",
            "abort_request",
        ),
    },
}


def record(library: str, folder: Path) -> dict[str, Any]:
    """Name -> [[parameter, default, "position" or "keyword"], ...]."""
    found: dict[str, Any] = {"version": _version(library, folder)}
    for name, (file, owner, function) in PLACES[library].items():
        body = [
            node
            for path in sorted(folder.glob(file))
            for node in ast.parse(path.read_text(encoding="utf-8")).body
        ]
        if owner:
            body = [
                node
                for one in body
                if isinstance(one, ast.ClassDef) and owner in ("*", one.name)
                for node in one.body
            ]
        found[name] = _parameters(_named(body, function)) if function else _fields(body)
    return found


def as_json(signatures: dict[str, Any]) -> str:
    """One parameter a line."""
    parts = [f' "version": {json.dumps(signatures["version"])}']
    for name, parameters in signatures.items():
        if name != "version":
            lines = ",\n".join(f"  {json.dumps(one)}" for one in parameters)
            parts.append(f' "{name}": [\n{lines}\n ]')
    return "{\n" + ",\n".join(parts) + "\n}"


def _version(library: str, folder: Path) -> str:
    """The version in the name of the wheel's .dist-info folder."""
    (metadata,) = folder.glob(f"{library}*.dist-info")
    return metadata.name.removesuffix(".dist-info").rpartition("-")[2]


def _named(body: list[ast.stmt], name: str) -> Any:
    return next(node for node in body if getattr(node, "name", "") == name)


def _fields(body: list[ast.stmt]) -> list[list[Any]]:
    return [
        [node.target.id, _value(node.value), "position"]
        for node in body
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name)
    ]


def _parameters(node: ast.FunctionDef | ast.AsyncFunctionDef) -> list[list[Any]]:
    given = node.args
    named = [*given.posonlyargs, *given.args]
    defaults = [None] * (len(named) - len(given.defaults)) + list(given.defaults)
    listed = [[a.arg, _value(d), "position"] for a, d in zip(named, defaults, strict=True)]
    listed += [
        [a.arg, _value(d), "keyword"]
        for a, d in zip(given.kwonlyargs, given.kw_defaults, strict=True)
    ]
    return [one for one in listed if one[0] not in ("self", "cls")]


def _value(node: ast.expr | None) -> Any:
    if node is None:
        return REQUIRED
    try:
        return ast.literal_eval(node)
    except ValueError:
        return f"<{ast.unparse(node)}>"


if __name__ == "__main__":
    print(as_json(record(sys.argv[1], Path(sys.argv[2]))))
