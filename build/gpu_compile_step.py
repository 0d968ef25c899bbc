"""What the compile steps of the GPU runtimes have in common.

Their `runtime_options` are a dataclass of the runtime's own, in a profile as in engine.json, and
they load the checkpoint as it is.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any, ClassVar

from build_console import BuildError, Phase
from compile_plan import CompileStep, link_or_copy
from engine_description import EngineConfigError, parse_section
from nvfp4_checkpoint import Checkpoint
from prove_engine import prove_engine

QUANTIZATION = "hf_quant_config.json"


class GpuCompileStep(CompileStep):
    """A runtime on NVIDIA GPUs."""

    runtime: ClassVar[str]
    options_type: ClassVar[type]

    @classmethod
    def profile_values(cls, runtime_options: dict[str, Any]) -> dict[str, Any]:
        cls._parse(runtime_options)
        return {"runtime_options": runtime_options}

    def runtime_options(self, options: argparse.Namespace, **given: Any) -> object:
        """The profile's options, with those of the command line before them."""
        chosen = {name: value for name, value in given.items() if value is not None}
        return self._parse({**options.runtime_options, **chosen})

    @classmethod
    def _parse(cls, runtime_options: dict[str, Any]) -> object:
        try:
            return parse_section(cls.options_type, runtime_options, "runtime_options")
        except EngineConfigError as error:
            raise BuildError(str(error)) from None

    def prove(self, folder: Path) -> None:
        prove_engine(folder)


def place_checkpoint(checkpoint: Checkpoint, folder: Path) -> None:
    """Put the weights into the engine's folder; hard links where they can be."""
    names = {tensor.path.name for tensor in checkpoint.tensors.values()}
    names.add("model.safetensors.index.json")
    names.add(QUANTIZATION)
    with Phase("placing the checkpoint in the engine"):
        for name in sorted(names):
            if (checkpoint.directory / name).is_file():
                link_or_copy(checkpoint.directory / name, folder / name)
