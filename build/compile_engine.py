#!/usr/bin/env python3
"""Turn an NVFP4 checkpoint of a Llama 3.x model into an engine that the server loads.

    python build/compile_engine.py --profile llama-3.1-8b-cpu --checkpoint DIR --output DIR

A profile (build/profiles) brings the numbers of a deployment; an option given here goes before it.

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
from pathlib import Path
from typing import Any

from checkpoints.check import check_content
from checkpoints.digest import MEMORY, digest_checkpoint
from checkpoints.llama_config import LlamaConfig, load_llama_config, plain_config
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
    Limits,
    ModelFacts,
    read_description,
    write_description,
)
from engines.profile import Hardware, Profile, load_profile, profile_names
from engines.step import CompileStep, Plan
from engines.token_table import read_token_table
from host.console import BuildError, Phase, run_script, say
from host.output_folder import written_whole

COMPILER_VERSION = "6"  # raise it when the same checkpoint and options give another engine

ROOT = Path(__file__).resolve().parent.parent
# Each runtime's step: a module here, and the class in it.
STEPS = {
    "openvino": "engines.openvino_step:CompileStepOpenVino",
    "replay": "engines.replay_step:CompileStepReplay",
    "tensorrt_llm": "engines.tensorrt_llm_step:CompileStepTensorRtLlm",
    "vllm": "engines.vllm_step:CompileStepVllm",
    "sglang": "engines.sglang_step:CompileStepSglang",
}


def find_step(runtime: str) -> CompileStep:
    """The runtime's compile step; raises `BuildError`."""
    if runtime not in STEPS:
        raise BuildError(
            f"the profile's runtime is {runtime!r}, this version compiles for {', '.join(STEPS)}"
        )
    module, _, name = STEPS[runtime].partition(":")
    step: CompileStep = getattr(importlib.import_module(module), name)()
    return step


def compile_engine(options: argparse.Namespace) -> bool:
    """Build the engine; returns False if an up-to-date one was left alone. Raises `BuildError`."""
    checkpoint: Path = options.checkpoint
    if not checkpoint.is_dir():
        raise BuildError(
            f"{checkpoint} is no folder; give --checkpoint a folder with an NVFP4 checkpoint"
        )
    step = find_step(options.runtime)
    llama = load_llama_config(checkpoint)
    notes = check_text(checkpoint, llama)
    plan = step.plan(options, llama)
    digest = digest_checkpoint(checkpoint, options.output)
    description = _describe(options, llama, plan, digest["sha256"])
    if read_description(options.output) == description:
        say(f"{options.output} is up to date")
        return False
    for reason in (*notes, *plan.reasons):
        say(reason)
    _write(options, step, plan, description, digest, llama)
    say(f"{options.output} is ready")
    return True


def _write(
    options: argparse.Namespace,
    step: CompileStep,
    plan: Plan,
    description: EngineConfig,
    digest: dict[str, Any],
    llama: LlamaConfig,
) -> None:
    checkpoint: Path = options.checkpoint
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
    with written_whole(options.output, "engine.json", needed) as folder:
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
    options: argparse.Namespace, llama: LlamaConfig, plan: Plan, sha256: str
) -> EngineConfig:
    return EngineConfig(
        format_version=FORMAT_VERSION,
        runtime=options.runtime,
        model=ModelFacts(
            name=options.model_name or options.checkpoint.resolve().name,
            vocab_size=llama.vocab_size,
            bos_token_id=llama.bos_token_id,
            eos_token_ids=list(llama.eos_token_ids),
            checkpoint_sha256=sha256,
        ),
        limits=plan.limits,
        runtime_options=plan.runtime_options,
        built_with={"compile_engine": COMPILER_VERSION, **plan.built_with},
        engine_python=options.engine_python,
    )


def _copy_small_files(checkpoint: Path, folder: Path, llama: LlamaConfig) -> None:
    for name in FILES_READ:
        if (checkpoint / name).is_file():
            shutil.copyfile(checkpoint / name, folder / name)
    for name in FOLDERS_READ:
        if (checkpoint / name).is_dir():
            shutil.copytree(checkpoint / name, folder / name)
    ids = {"bos_token_id": llama.bos_token_id, "eos_token_id": list(llama.eos_token_ids)}
    _write_json(folder / "generation_config.json", ids)  # nothing else in it is ever used
    _write_json(folder / "config.json", plain_config(checkpoint, llama))


def _write_json(path: Path, document: dict[str, Any]) -> None:
    path.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    """The command line; `None` stands for the process's own."""
    first = argparse.ArgumentParser(add_help=False)
    first.add_argument(
        "--profile", metavar="NAME", help=f"a file, or one of {', '.join(profile_names())}"
    )
    first.add_argument(
        "--check-machine", action="store_true", help="say whether this machine will do, no more"
    )
    given = first.parse_known_args(arguments)[0]
    name, checks = given.profile, given.check_machine
    from_profile = _profile_defaults(load_profile(name)) if name else {}
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        parents=[first],
    )
    add = parser.add_argument
    add("--runtime", choices=tuple(STEPS), required="runtime" not in from_profile)
    add(
        "--checkpoint",
        type=Path,
        required=not checks and "checkpoint" not in from_profile,
        help="folder with the NVFP4 checkpoint and its tokenizer",
    )
    add("--output", type=Path, required=not checks, help="the engine's folder")
    add(
        "--engine-python",
        default="",
        metavar="PATH",
        help="the interpreter whose packages the runtime is in, where they do not go together with "
        "the server's (vLLM beside nvidia-pytriton); an absolute path, the same where it is served",
    )
    add("--model-name", help="how the engine calls the model (the checkpoint folder's name)")
    limits = parser.add_argument_group("limits; on a GPU they follow from its memory")
    add = limits.add_argument
    add("--max-seq-len", type=int, help="prompt and generated tokens of one request (4096)")
    add("--max-batch-size", type=int, help="sequences that one forward pass advances (16)")
    add("--max-num-tokens", type=int, help="tokens that one forward pass computes (64)")
    add("--max-queue-size", type=int, default=64, help="requests that may wait (64)")
    for runtime in STEPS:
        find_step(runtime).add_arguments(parser)
    defaults = {
        "hang_timeout_s": Limits.hang_timeout_s,
        "hardware": Hardware(),
        "runtime_options": {},
    }
    parser.set_defaults(**{**defaults, **from_profile})
    options = parser.parse_args(arguments)
    if options.runtime != from_profile.get("runtime", options.runtime):
        options.runtime_options = {}  # they are another runtime's
    return options


def _profile_defaults(profile: Profile) -> dict[str, Any]:
    """The values of a profile under the names of the options that they stand for."""
    values: dict[str, Any] = {
        "runtime": profile.runtime,
        "model_name": profile.model_name,
        "max_queue_size": profile.limits.max_queue_size,
        "hang_timeout_s": profile.limits.hang_timeout_s,
        "hardware": profile.hardware,
    }
    for limit in ("max_seq_len", "max_batch_size", "max_num_tokens"):
        if getattr(profile.limits, limit):
            values[limit] = getattr(profile.limits, limit)
    if profile.checkpoint.directory:
        values["checkpoint"] = ROOT / profile.checkpoint.directory
    return values | find_step(profile.runtime).profile_values(profile.runtime_options)


def main() -> None:
    """The command line's entry."""
    options = parse_arguments()
    if options.check_machine:
        find_step(options.runtime).check_machine(options)
        say(f"this machine will do for runtime {options.runtime}")
    else:
        compile_engine(options)


if __name__ == "__main__":
    run_script(main)
