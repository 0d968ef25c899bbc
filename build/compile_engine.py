#!/usr/bin/env python3
"""Turn an NVFP4 checkpoint of a Llama 3.x model into an engine that the server loads.

    python build/compile_engine.py --profile llama-3.1-8b-cpu --checkpoint DIR --output DIR

A profile (build/profiles) brings the numbers of a deployment; an option given here goes before it.

The engine's folder: engine.json, config.json, generation_config.json, the tokenizer's files,
token_bytes.npz, and for OpenVINO the model over the checkpoint's own 4-bit bytes. It is written
aside and renamed at the end; an engine that is up to date is left alone.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import shutil
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeVar

from build_console import BuildError, Phase, run_script, say
from build_profile import Profile, load_profile, profile_names
from checkpoint_digest import MEMORY, digest_checkpoint
from engine_description import (
    FORMAT_VERSION,
    KV_BLOCK_TOKENS,
    EngineConfig,
    EngineConfigError,
    Limits,
    ModelFacts,
    OpenVinoOptions,
    import_openvino,
    read_description,
    write_description,
)
from llama_config import LlamaConfig, load_llama_config
from nvfp4_checkpoint import open_checkpoint
from token_table import read_token_table
from whole_output import written_whole

COMPILER_VERSION = "4"  # raise it when the same checkpoint and options give another engine
NEEDED_FILES = ("config.json", "tokenizer.json", "tokenizer_config.json")
OPTIONAL_FILES = ("generation_config.json", "special_tokens_map.json", "chat_template.jinja")
DEFAULT_MAX_SEQ_LEN = 4096  # or the model's own limit, where that is lower
DEFAULT_KV_CACHE_TOKENS = 16384  # 2 GB for the 8B model in bf16

ROOT = Path(__file__).resolve().parent.parent
# A runtime's own options, by their names here and in a profile's runtime_options.
OPTIONS_OF: dict[str, tuple[str, ...]] = {
    "openvino": (
        "precision",
        "kv_cache_precision",
        "kv_cache_tokens",
        "threads",
        "prefix_caching",
    ),
    "replay": ("step_seconds",),
}
RUNTIMES_HERE = tuple(OPTIONS_OF)

Section = TypeVar("Section")


def compile_engine(options: argparse.Namespace) -> bool:
    """Build the engine; returns False if an up-to-date one was left alone. Raises `BuildError`."""
    checkpoint: Path = options.checkpoint
    if not checkpoint.is_dir():
        raise BuildError(
            f"{checkpoint} is no folder; give --checkpoint a folder with an NVFP4 checkpoint"
        )
    llama = load_llama_config(checkpoint)
    for name in NEEDED_FILES:
        if not (checkpoint / name).is_file():
            raise BuildError(
                f"{checkpoint / name} does not exist; fetch the whole checkpoint with its tokenizer"
            )
    digest = digest_checkpoint(checkpoint, options.output)
    description = _describe(options, llama, digest["sha256"])
    if read_description(options.output) == description:
        say(f"{options.output} is up to date")
        return False
    weights = open_checkpoint(checkpoint) if options.runtime == "openvino" else None
    table = read_token_table(checkpoint / "tokenizer.json", llama.vocab_size)
    with written_whole(
        options.output, "engine.json", weights.data_bytes if weights else 0
    ) as folder:
        with Phase("copying configuration and tokenizer"):
            _copy_small_files(checkpoint, folder)
            table.save(folder / "token_bytes.npz")
            (folder / MEMORY).write_text(json.dumps(digest, indent=2) + "\n", encoding="utf-8")
        if weights is not None:
            # Needs OpenVINO, which replay does not; imported with its telemetry switched off.
            import_openvino()
            from guide_files import write_guide_files
            from openvino_files import write_openvino_model

            write_openvino_model(weights, description.limits.max_seq_len, folder)
            write_guide_files(table, llama.eos_token_ids[0], folder)
        write_description(folder, description)
    say(f"{options.output} is ready")
    return True


def _describe(options: argparse.Namespace, llama: LlamaConfig, sha256: str) -> EngineConfig:
    limits = _limits(options, llama)
    built_with = {"compile_engine": COMPILER_VERSION}
    if options.runtime == "openvino":
        built_with |= {name: _version(name) for name in ("openvino", "openvino-genai")}
        runtime_options = asdict(_openvino_options(options, limits))
    else:
        runtime_options = {"step_seconds": options.step_seconds}
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
        limits=limits,
        runtime_options=runtime_options,
        built_with=built_with,
    )


def _limits(options: argparse.Namespace, llama: LlamaConfig) -> Limits:
    longest = llama.max_position_embeddings
    limits = _validated(
        Limits,
        max_seq_len=options.max_seq_len or min(DEFAULT_MAX_SEQ_LEN, longest),
        max_batch_size=options.max_batch_size,
        max_num_tokens=options.max_num_tokens,
        max_queue_size=options.max_queue_size,
        hang_timeout_s=options.hang_timeout_s,
    )
    if limits.max_seq_len > longest:
        raise BuildError(
            f"--max-seq-len is {limits.max_seq_len}, allowed is at most {longest}, "
            "the model's max_position_embeddings"
        )
    if limits.max_num_tokens < limits.max_batch_size:
        raise BuildError(
            f"--max-num-tokens is {limits.max_num_tokens}, allowed is at least --max-batch-size "
            f"{limits.max_batch_size}: each sequence of the batch computes one token a step"
        )
    return limits


def _openvino_options(options: argparse.Namespace, limits: Limits) -> OpenVinoOptions:
    tokens = options.kv_cache_tokens
    if tokens is None:
        wanted = limits.max_batch_size * limits.max_seq_len
        tokens = max(limits.max_seq_len, min(wanted, DEFAULT_KV_CACHE_TOKENS))
    if tokens < limits.max_seq_len:
        raise BuildError(
            f"--kv-cache-tokens is {tokens}, allowed is at least --max-seq-len "
            f"{limits.max_seq_len}: the longest request that is admitted has to fit"
        )
    return _validated(
        OpenVinoOptions,
        num_kv_blocks=-(-tokens // KV_BLOCK_TOKENS),
        precision=options.precision,
        kv_cache_precision=options.kv_cache_precision or options.precision,
        num_threads=options.threads,
        enable_prefix_caching=options.prefix_caching,
    )


def _validated(section: Callable[..., Section], **values: Any) -> Section:
    try:
        return section(**values)
    except EngineConfigError as error:
        raise BuildError(f"{error}; correct the option of that name") from None


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        raise BuildError(f"{package} is not installed; run \"pip install '.[server]'\"") from None


def _copy_small_files(checkpoint: Path, folder: Path) -> None:
    for name in (*NEEDED_FILES, *OPTIONAL_FILES):
        if (checkpoint / name).is_file():
            shutil.copyfile(checkpoint / name, folder / name)
    generation = folder / "generation_config.json"
    if not generation.exists():
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        ids = {key: config[key] for key in ("bos_token_id", "eos_token_id") if key in config}
        generation.write_text(json.dumps(ids, indent=2) + "\n", encoding="utf-8")


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    """The command line; `None` stands for the process's own."""
    first = argparse.ArgumentParser(add_help=False)
    first.add_argument(
        "--profile", metavar="NAME", help=f"a file, or one of {', '.join(profile_names())}"
    )
    name = first.parse_known_args(arguments)[0].profile
    from_profile = _profile_defaults(load_profile(name)) if name else {}
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        parents=[first],
    )
    add = parser.add_argument
    add("--runtime", choices=RUNTIMES_HERE, required="runtime" not in from_profile)
    add(
        "--checkpoint",
        type=Path,
        required="checkpoint" not in from_profile,
        help="folder with the NVFP4 checkpoint and its tokenizer",
    )
    add("--output", type=Path, required=True, help="the engine's folder")
    add("--model-name", help="how the engine calls the model (the checkpoint folder's name)")
    add("--max-seq-len", type=int, help="prompt and generated tokens of one request (4096)")
    add(
        "--max-batch-size",
        type=int,
        default=16,
        help="sequences that one forward pass advances (16)",
    )
    add("--max-num-tokens", type=int, default=64, help="tokens that one forward pass computes (64)")
    add("--max-queue-size", type=int, default=64, help="requests that may wait (64)")
    openvino = parser.add_argument_group("openvino")
    add = openvino.add_argument
    add(
        "--kv-cache-tokens", type=int, help="tokens of all requests that the KV cache holds (16384)"
    )
    add("--precision", choices=("bf16", "f32"), default="bf16", help="of the arithmetic (bf16)")
    add("--kv-cache-precision", choices=("bf16", "f32", "u8"), help="(as --precision)")
    add("--threads", type=int, default=0, help="0: one for each core")
    add(
        "--prefix-caching",
        action="store_true",
        help="prompts that begin alike share their KV blocks; off, for OpenVINO GenAI 2026.4 gives "
        "some of the requests that share blocks under load wrong tokens",
    )
    parser.add_argument_group("replay").add_argument(
        "--step-seconds", type=float, default=0.0, help="pace of one step"
    )
    parser.set_defaults(**{"hang_timeout_s": Limits.hang_timeout_s, **from_profile})
    return parser.parse_args(arguments)


def _profile_defaults(profile: Profile) -> dict[str, Any]:
    """The values of a profile under the names of the options that they stand for."""
    if profile.runtime not in RUNTIMES_HERE:
        raise BuildError(
            f"the profile's runtime is {profile.runtime!r}, this version compiles for "
            f"{', '.join(RUNTIMES_HERE)}"
        )
    for key in profile.runtime_options:
        if key not in OPTIONS_OF[profile.runtime]:
            known = ", ".join(OPTIONS_OF[profile.runtime])
            raise BuildError(f"runtime_options has the unknown key {key!r}; known are {known}")
    values: dict[str, Any] = {
        "runtime": profile.runtime,
        "model_name": profile.model_name,
        "max_queue_size": profile.limits.max_queue_size,
        "hang_timeout_s": profile.limits.hang_timeout_s,
    }
    for limit in ("max_seq_len", "max_batch_size", "max_num_tokens"):
        if getattr(profile.limits, limit):
            values[limit] = getattr(profile.limits, limit)
    if profile.checkpoint.directory:
        values["checkpoint"] = ROOT / profile.checkpoint.directory
    return values | profile.runtime_options


def main() -> None:
    """The command line's entry."""
    compile_engine(parse_arguments())


if __name__ == "__main__":
    run_script(main)
