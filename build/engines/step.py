"""What every runtime's compile step has in common: its source, its plan, and the seam itself.

A runtime's step is one class in `compile_<runtime>.py`; `compile_engine.py` finds it by name.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import os
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, TypeVar

from checkpoints.llama_config import LlamaConfig
from checkpoints.nvfp4 import Checkpoint
from host.console import BuildError

from engines.engine_json import EngineConfigError, Limits
from engines.hardware import check_memory
from engines.token_table import TokenTable

DEFAULT_MAX_SEQ_LEN = 4096  # or the model's own limit, where that is lower
DEFAULT_MAX_BATCH_SIZE = 16
DEFAULT_MAX_NUM_TOKENS = 64
INTERPRETER_S = 60.0

Section = TypeVar("Section")


@dataclass(frozen=True)
class Plan:
    """What is going to be built; made before anything expensive begins."""

    limits: Limits
    runtime_options: dict[str, Any]
    built_with: dict[str, str]  # what the engine depends on -> its version
    reasons: tuple[str, ...] = field(default=(), compare=False)  # why the numbers are these


class CompileStep:
    """One runtime's way from a checkpoint to an engine; `plan` is the one that each has to have."""

    option_names: ClassVar[tuple[str, ...]] = ()  # of the command line, and in a profile
    reads_weights: ClassVar[bool] = True  # false: it needs the tokenizer alone
    needs_gpu_scales: ClassVar[bool] = False  # of activations and KV cache, one for fused weights

    @staticmethod
    def add_arguments(parser: argparse.ArgumentParser) -> None:
        """Add the runtime's own options."""

    @classmethod
    def profile_values(cls, runtime_options: dict[str, Any]) -> dict[str, Any]:
        """A profile's runtime_options as values of the command line's options.

        Raises `BuildError` for an unknown key."""
        for key in runtime_options:
            if key not in cls.option_names:
                raise BuildError(
                    f"runtime_options has the unknown key {key!r}; known are "
                    f"{', '.join(cls.option_names)}"
                )
        return runtime_options

    def check_machine(self, options: argparse.Namespace) -> None:
        """All that can be known without a checkpoint; raises `BuildError`."""
        check_memory(options.hardware)

    def plan(self, options: argparse.Namespace, llama: LlamaConfig) -> Plan:
        """Check machine, versions and numbers; raises `BuildError`."""
        raise NotImplementedError

    def engine_bytes(self, checkpoint: Checkpoint) -> int:
        """Disk space that the engine takes."""
        return checkpoint.data_bytes

    def write(self, checkpoint: Checkpoint, table: TokenTable, plan: Plan, folder: Path) -> None:
        """Write the runtime's files into `folder`, beside the common ones."""

    def prove(self, folder: Path) -> None:
        """Run the engine in `folder` once where only a run shows that it works."""


def plan_limits(options: argparse.Namespace, llama: LlamaConfig, **chosen: int) -> Limits:
    """The limits that the options name; for those they leave open `chosen`, or the defaults."""
    longest = llama.max_position_embeddings
    limits = validated(
        Limits,
        max_seq_len=_first(
            options.max_seq_len, chosen.get("max_seq_len"), min(DEFAULT_MAX_SEQ_LEN, longest)
        ),
        max_batch_size=_first(
            options.max_batch_size, chosen.get("max_batch_size"), DEFAULT_MAX_BATCH_SIZE
        ),
        max_num_tokens=_first(
            options.max_num_tokens, chosen.get("max_num_tokens"), DEFAULT_MAX_NUM_TOKENS
        ),
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


def _first(*values: int | None) -> int:
    return next(value for value in values if value is not None)


def validated(section: Callable[..., Section], **values: Any) -> Section:
    """Make a section of engine.json; raises `BuildError` in the words of its own check."""
    try:
        return section(**values)
    except EngineConfigError as error:
        raise BuildError(f"{error}; correct the option of that name") from None


def installed_version(*names: str, python: str = "") -> str | None:
    """The version of the first of these packages that is installed, without importing it.

    `python` is another interpreter whose packages are meant; raises `BuildError` if it is none.
    """
    if python:
        return _version_elsewhere(python, names)
    for name in names:
        try:
            return importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return None


def _version_elsewhere(python: str, names: tuple[str, ...]) -> str | None:
    found = "(v for v in (d.version for n in sys.argv[1:] for d in m.distributions(name=n)))"
    code = f"import sys, importlib.metadata as m; print(next({found}, ''))"
    try:
        done = subprocess.run(
            [python, "-c", code, *names],
            capture_output=True,
            text=True,
            timeout=INTERPRETER_S,
            check=True,
        )
    except (OSError, subprocess.SubprocessError) as error:
        raise BuildError(
            f"--engine-python is {python!r}, allowed is the absolute path of a Python interpreter "
            f"({error})"
        ) from None
    return done.stdout.strip() or None


def link_or_copy(source: Path, target: Path) -> None:
    """A hard link costs nothing of 6 GB; on another file system it is a copy."""
    try:
        os.link(source.resolve(), target)
    except OSError:
        shutil.copy2(source, target)
