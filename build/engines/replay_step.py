"""The replay engine has no model: it plays the prompt back, to measure everything around it."""

from __future__ import annotations

import argparse

from checkpoints.llama_config import LlamaConfig

from engines.step import CompileStep, Plan, plan_limits


class CompileStepReplay(CompileStep):
    """See the module's docstring."""

    option_names = ("step_seconds",)
    reads_weights = False

    @staticmethod
    def add_arguments(parser: argparse.ArgumentParser) -> None:
        parser.add_argument_group("replay").add_argument(
            "--step-seconds", type=float, default=0.0, help="pace of one step"
        )

    def plan(self, options: argparse.Namespace, llama: LlamaConfig) -> Plan:
        return Plan(plan_limits(options, llama), {"step_seconds": options.step_seconds}, {})
