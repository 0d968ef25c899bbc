"""The run's exit code, for a person and for CI."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

EXIT_OK = 0
EXIT_BROKEN = 1  # an SLO did not hold, an answer failed or was wrong, or a file is not whole
EXIT_BAD_INPUT = 2  # the run did not begin
EXIT_INVALID = 3  # the client was the bottleneck, or a worker died: the figures say nothing
EXIT_LEFT = 130  # a shell's, for a program that Ctrl-C ended


def exit_code(summary: Mapping[str, Any], whole: bool = True) -> int:
    """Of `RunResults.summary()`. A run that says nothing cannot have held anything.

    `whole`: whether all files of the run could be written.
    """
    if not summary["validity"]["valid"]:
        return EXIT_INVALID
    wrong = any(
        journey["counts"]["failed"] + journey["counts"]["incorrect"]
        for journey in summary["journeys"].values()
    )
    held = all(slo["held"] for slo in summary["slos"])
    return EXIT_OK if held and whole and not wrong else EXIT_BROKEN
