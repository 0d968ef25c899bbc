"""The replay engine has no model: it plays the prompt back, to measure everything around it."""

from __future__ import annotations

import argparse
from dataclasses import asdict

from checkpoints.llama_config import LlamaConfig

from engines.engine_json import ReplayOptions
from engines.step import CompileRequest, CompileStep, Plan, plan_limits


class CompileStepReplay(CompileStep[ReplayOptions]):
    """See the module's docstring."""

    options_type = ReplayOptions
    flags = ("step_seconds",)
    reads_weights = False

    @staticmethod
    def add_arguments(parser: argparse.ArgumentParser) -> None:
        parser.add_argument_group("replay").add_argument(
            "--step-seconds", type=float, help="pace of one step (0: as fast as it can)"
        )

    def plan(self, request: CompileRequest[ReplayOptions], llama: LlamaConfig) -> Plan:
        return Plan(plan_limits(request.limits, llama), asdict(request.options), {})
