#!/usr/bin/env python3
"""Turn an NVFP4 checkpoint of a Llama 3.x model into an engine that the server loads.

    python build/compile_engine.py --profile llama-3.1-8b-cpu --checkpoint DIR --output DIR

A profile (build/profiles) has the numbers of a deployment; an option given here overrides it.

The engine's folder: engine.json, config.json, generation_config.json, the tokenizer's files,
token_bytes.npz, and what the runtime needs: for OpenVINO a model over the checkpoint's own 4-bit
bytes, for TensorRT-LLM, vLLM and SGLang the checkpoint itself, or a TensorRT engine. It is written
aside and renamed at the end; an engine that is up to date is left alone.
"""

from __future__ import annotations

import argparse
import importlib
import json
import shutil
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from checkpoints.llama_config import LlamaConfig, load_llama_config, plain_config
from engines.profile import Hardware, ProfileLimits, load_profile, profile_names
from host.console import BuildError, Phase, at_least_1, run_script, say, script_imports
from host.output_folder import written_whole

with script_imports(__name__):
    from checkpoints.check import check_content
    from checkpoints.manifest import MEMORY, digest_checkpoint
    from checkpoints.nvfp4 import open_checkpoint
    from checkpoints.text import (
        FILES_READ,
        FOLDERS_READ,
        TOKENIZER,
        check_rooms,
        check_text,
        read_tokenizer_files,
    )
    from engines.engine_json import (
        FORMAT_VERSION,
        EngineConfig,
        ModelFacts,
        read_description,
        write_description,
    )
    from engines.step import CompileRequest, CompileStep, Plan, validated
    from engines.token_table import read_token_table

COMPILER_VERSION = "6"  # raise it when the same checkpoint and options give another engine

# Each runtime's step: a module of build/, and the class in it.
STEPS = {
    "openvino": "engines.openvino_step:CompileStepOpenVino",
    "replay": "engines.replay_step:CompileStepReplay",
    "tensorrt_llm": "engines.tensorrt_llm_step:CompileStepTensorRtLlm",
    "vllm": "engines.vllm_step:CompileStepVllm",
    "sglang": "engines.sglang_step:CompileStepSglang",
}


LIMITS = ("max_seq_len", "max_batch_size", "max_num_tokens", "max_queue_size")


def find_step(runtime: str) -> CompileStep[Any]:
    """The runtime's compile step; raises `BuildError`."""
    if runtime not in STEPS:
        raise BuildError(
            f"the profile's runtime must be one of {', '.join(STEPS)}, not {runtime!r}"
        )
    module, _, name = STEPS[runtime].partition(":")
    step: CompileStep[Any] = getattr(importlib.import_module(module), name)()
    return step


def compile_engine(request: CompileRequest[Any]) -> bool:
    """Build the engine; returns False if an up-to-date one was left alone. Raises `BuildError`."""
    checkpoint = request.checkpoint
    if not checkpoint.is_dir():
        raise BuildError(
            f"{checkpoint} is not a folder; give --checkpoint a folder with an NVFP4 checkpoint"
        )
    step = find_step(request.runtime)
    llama = load_llama_config(checkpoint)
    notes = check_text(checkpoint, llama)
    plan = step.plan(request, llama)
    digest = digest_checkpoint(checkpoint, request.output)
    description = _describe(request, llama, plan, digest["sha256"])
    if read_description(request.output) == description:
        say(f"{request.output} is up to date")
        return False
    for reason in (*notes, *plan.reasons):
        say(reason)
    _write(request, step, plan, description, digest, llama)
    say(f"{request.output} is ready")
    return True


def _write(
    request: CompileRequest[Any],
    step: CompileStep[Any],
    plan: Plan,
    description: EngineConfig,
    digest: dict[str, Any],
    llama: LlamaConfig,
) -> None:
    checkpoint = request.checkpoint
    weights = None
    if step.reads_weights:
        say(f"checkpoint: {check_content(checkpoint, step.needs_gpu_scales)}")
        weights = open_checkpoint(checkpoint)
    table = read_token_table(
        checkpoint / TOKENIZER,
        description.model.vocab_size,
        read_tokenizer_files(checkpoint).special_tokens,
        description.model.eos_token_ids,
    )
    needed = step.engine_bytes(weights) if weights else 0
    with written_whole(request.output, "engine.json", needed) as folder:
        with Phase("copying configuration and tokenizer"):
            _copy_small_files(checkpoint, folder, weights.config if weights else llama)
            table.save(folder / "token_bytes.npz")
            (folder / MEMORY).write_text(json.dumps(digest, indent=2) + "\n", encoding="utf-8")
        if weights is not None:
            step.write(weights, table, plan, folder)
        write_description(folder, description)
        check_rooms(folder)
        step.prove(folder)


def _describe(
    request: CompileRequest[Any], llama: LlamaConfig, plan: Plan, sha256: str
) -> EngineConfig:
    return EngineConfig(
        format_version=FORMAT_VERSION,
        runtime=request.runtime,
        model=ModelFacts(
            name=request.model_name or request.checkpoint.resolve().name,
            vocab_size=llama.vocab_size,
            bos_token_id=llama.bos_token_id,
            eos_token_ids=list(llama.eos_token_ids),
            checkpoint_sha256=sha256,
        ),
        limits=plan.limits,
        runtime_options=plan.runtime_options,
        built_with={"compile_engine": COMPILER_VERSION, **plan.built_with},
        engine_python=request.engine_python,
    )


def _copy_small_files(checkpoint: Path, folder: Path, llama: LlamaConfig) -> None:
    for name in FILES_READ:
        if (checkpoint / name).is_file():
            shutil.copyfile(checkpoint / name, folder / name)
    for name in FOLDERS_READ:
        if (checkpoint / name).is_dir():
            shutil.copytree(checkpoint / name, folder / name)
    ids = {"bos_token_id": llama.bos_token_id, "eos_token_id": list(llama.eos_token_ids)}
    _write_json(folder / "generation_config.json", ids)  # all that the server reads there
    _write_json(folder / "config.json", plain_config(checkpoint, llama))


def _write_json(path: Path, document: dict[str, Any]) -> None:
    path.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")


def parse_arguments(arguments: list[str] | None = None) -> CompileRequest[Any]:
    """Read the command line, and from the profile what it omits; None: the process's arguments.

    Raises `BuildError` for a wrong profile.
    """
    parser = _parser()
    options = parser.parse_args(arguments)
    profile = load_profile(options.profile) if options.profile else None
    runtime = options.runtime or (profile.runtime if profile else None)
    checkpoint = options.checkpoint or (profile.checkpoint.folder if profile else None)
    if runtime is None:
        parser.error("there is no runtime; give --runtime or --profile")
    if checkpoint is None and not options.check_machine:
        parser.error("there is no checkpoint; give --checkpoint or a --profile with a folder")
    if options.output is None and not options.check_machine:
        parser.error("the following arguments are required: --output")
    step = find_step(runtime)
    for name in (name for other in STEPS for name in find_step(other).flags):
        if name not in step.flags and getattr(options, name) is not None:
            parser.error(f"--{name.replace('_', '-')} is not an option of runtime {runtime}")
    limits = {name: getattr(options, name) for name in LIMITS}
    runtime_options = {name: getattr(options, name) for name in step.flags}
    if profile is not None and profile.runtime == runtime:
        runtime_options = profile.runtime_options | _given(runtime_options)
    return CompileRequest(
        runtime=runtime,
        options=step.parse(_given(runtime_options)),
        checkpoint=checkpoint or Path(),
        output=options.output or Path(),
        model_name=options.model_name or (profile.model_name if profile else ""),
        limits=validated(
            partial(replace, profile.limits if profile else ProfileLimits()), **_given(limits)
        ),
        hardware=profile.hardware if profile else Hardware(),
        engine_python=options.engine_python,
        only_check_machine=options.check_machine,
    )


def _given(options: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in options.items() if value is not None}


def _parser() -> argparse.ArgumentParser:
    """Options that are not given are None."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--profile", metavar="NAME", help=f"a file, or one of {', '.join(profile_names())}")
    add("--check-machine", action="store_true", help="only say whether this machine will do")
    add("--runtime", choices=tuple(STEPS), help="the profile's, unless given")
    add("--checkpoint", type=Path, help="folder with the NVFP4 checkpoint and its tokenizer")
    add("--output", type=Path, help="the engine's folder")
    add(
        "--engine-python",
        default="",
        metavar="PATH",
        help="the interpreter that has the runtime's packages, where they conflict with the "
        "server's (vLLM beside nvidia-pytriton); an absolute path, the same where it is served",
    )
    add("--model-name", help="how the engine calls the model (the checkpoint folder's name)")
    limits = parser.add_argument_group("limits; on a GPU they follow from its memory")
    add = limits.add_argument
    add("--max-seq-len", type=at_least_1, help="prompt and generated tokens of one request (4096)")
    add("--max-batch-size", type=at_least_1, help="sequences that one forward pass advances (16)")
    add("--max-num-tokens", type=at_least_1, help="tokens that one forward pass computes (64)")
    add("--max-queue-size", type=int, help="requests that may wait (64)")
    for runtime in STEPS:
        find_step(runtime).add_arguments(parser)
    return parser


def main() -> None:
    """The command line's entry."""
    request = parse_arguments()
    if request.only_check_machine:
        find_step(request.runtime).check_machine(request)
        say(f"this machine will do for runtime {request.runtime}")
    else:
        compile_engine(request)


if __name__ == "__main__":
    run_script(main)
