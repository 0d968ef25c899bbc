"""The common parts of all compile steps: the request, the plan and the interface.

A runtime's step is one class in `<runtime>_step.py`; `compile_engine.py` finds it by name.
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
from typing import TYPE_CHECKING, Any, ClassVar, Generic, TypeVar

from checkpoints.llama_config import LlamaConfig
from host.console import BuildError

from engines.engine_json import EngineConfigError, Limits, parse_section
from engines.hardware import check_memory
from engines.profile import Hardware, ProfileLimits

if TYPE_CHECKING:  # numpy, which --help must not need
    from _typeshed import DataclassInstance
    from checkpoints.nvfp4 import Checkpoint

    from engines.token_table import TokenTable

DEFAULT_MAX_SEQ_LEN = 4096  # or the model's own limit, where that is lower
DEFAULT_MAX_BATCH_SIZE = 16
DEFAULT_MAX_NUM_TOKENS = 64
INTERPRETER_S = 60.0

Section = TypeVar("Section")
Options = TypeVar("Options", bound="DataclassInstance")  # the runtime's own, frozen


@dataclass(frozen=True)
class CompileRequest(Generic[Options]):
    """The engine that a profile and the command line ask for."""

    runtime: str
    options: Options
    checkpoint: Path
    output: Path
    model_name: str
    limits: ProfileLimits
    hardware: Hardware
    engine_python: str = ""  # the interpreter that has the runtime's packages; "": this one
    only_check_machine: bool = False  # then there may be neither checkpoint nor output


@dataclass(frozen=True)
class Plan:
    """What will be built; made before anything expensive begins."""

    limits: Limits
    runtime_options: dict[str, Any]
    built_with: dict[str, str]  # what the engine depends on -> its version
    reasons: tuple[str, ...] = field(default=(), compare=False)  # why the numbers are these


class CompileStep(Generic[Options]):
    """One runtime's way from a checkpoint to an engine; each step must have a `plan`."""

    options_type: ClassVar[type]  # the dataclass of `Options`
    flags: ClassVar[tuple[str, ...]] = ()  # its fields that the command line can set
    reads_weights: ClassVar[bool] = True  # false: it needs the tokenizer alone
    needs_gpu_scales: ClassVar[bool] = False  # of activations and KV cache, one for fused weights

    @staticmethod
    def add_arguments(parser: argparse.ArgumentParser) -> None:
        """Add the runtime's `flags`; those that are not given must be None."""

    @classmethod
    def parse(cls, runtime_options: dict[str, Any]) -> Options:
        """A profile's `runtime_options`, checked; raises `BuildError`."""
        try:
            options: Options = parse_section(cls.options_type, runtime_options, "runtime_options")
        except EngineConfigError as error:
            raise BuildError(str(error)) from None
        return options

    def check_machine(self, request: CompileRequest[Options]) -> None:
        """Check all that can be known without a checkpoint; raises `BuildError`."""
        check_memory(request.hardware)

    def plan(self, request: CompileRequest[Options], llama: LlamaConfig) -> Plan:
        """Check machine, versions and numbers; raises `BuildError`."""
        raise NotImplementedError

    def engine_bytes(self, checkpoint: Checkpoint) -> int:
        """Disk space that the engine takes."""
        return checkpoint.data_bytes

    def write(self, checkpoint: Checkpoint, table: TokenTable, plan: Plan, folder: Path) -> None:
        """Write the runtime's files into `folder`, beside the common ones."""

    def prove(self, folder: Path) -> None:
        """Run the engine in `folder` once, if only a run shows that it works."""


def plan_limits(wanted: ProfileLimits, llama: LlamaConfig, **chosen: int) -> Limits:
    """The wanted limits; one that is left open is `chosen`'s or the default."""
    longest = llama.max_position_embeddings
    defaults = {
        "max_seq_len": min(DEFAULT_MAX_SEQ_LEN, longest),
        "max_batch_size": DEFAULT_MAX_BATCH_SIZE,
        "max_num_tokens": DEFAULT_MAX_NUM_TOKENS,
    } | chosen
    limits = validated(
        Limits,
        **{name: getattr(wanted, name) or default for name, default in defaults.items()},
        max_queue_size=wanted.max_queue_size,
        hang_timeout_s=wanted.hang_timeout_s,
    )
    if limits.max_seq_len > longest:
        raise BuildError(
            f"--max-seq-len must be at most {longest}, the model's max_position_embeddings, "
            f"not {limits.max_seq_len}"
        )
    if limits.max_num_tokens < limits.max_batch_size:
        raise BuildError(
            f"--max-num-tokens must be at least --max-batch-size, {limits.max_batch_size}, not "
            f"{limits.max_num_tokens}: each sequence of the batch computes one token a step"
        )
    return limits


def validated(section: Callable[..., Section], **values: Any) -> Section:
    """Make a section of engine.json; raises `BuildError` with its own check's message."""
    try:
        return section(**values)
    except EngineConfigError as error:
        raise BuildError(f"{error}; correct the option of that name") from None


def installed_version(*names: str, python: str = "") -> str | None:
    """The version of the first of these packages that is installed, without importing it.

    `python` names another interpreter whose packages count; raises `BuildError` if it is none.
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
            f"--engine-python must be the absolute path of a Python interpreter, not {python!r} "
            f"({error})"
        ) from None
    return done.stdout.strip() or None


def link_or_copy(source: Path, target: Path) -> None:
    """Hard-link, because copying 6 GB takes long; copy to another file system."""
    try:
        os.link(source.resolve(), target)
    except OSError:
        shutil.copy2(source, target)
