"""A deployment's numbers: `build/profiles/*.toml`, loaded into a frozen, validated type.

The build writes those that the server needs into the engine's `engine.json`. An unknown or
mis-typed key stops the build, with a sentence that names the key and the choices.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from host.console import BuildError

from engines.engine_json import RUNTIMES, EngineConfigError, parse_section

PROFILES = Path(__file__).resolve().parents[1] / "profiles"
HEX_DIGITS = frozenset("0123456789abcdef")


@dataclass(frozen=True)
class CheckpointSource:
    """Where the weights come from: a repository of the hub, or a folder."""

    repo: str = ""  # "owner/name"
    revision: str = ""  # a commit id; "": that of `main` at the first fetch
    directory: str = ""  # relative to the checkout, or absolute

    @property
    def folder(self) -> Path | None:
        """The folder `directory`; None for a repository of the hub."""
        return PROFILES.parents[1] / self.directory if self.directory else None

    def __post_init__(self) -> None:
        if bool(self.repo) == bool(self.directory):
            raise EngineConfigError(
                f"checkpoint must have either repo or directory, not {self.repo!r} and "
                f"{self.directory!r}"
            )
        if self.revision and not (
            len(self.revision) == 40 and HEX_DIGITS.issuperset(self.revision)
        ):
            raise EngineConfigError(
                f"checkpoint.revision must be a commit id of 40 hex digits, not {self.revision!r}"
            )


@dataclass(frozen=True)
class Hardware:
    """The machine that the profile is for; checked before anything expensive."""

    gpus: int = 0
    compute_capabilities: list[str] = field(default_factory=list)  # one of these; []: any
    gpu_memory_gib: float = 0.0  # at least, of each GPU
    memory_gib: float = 0.0  # at least, of the machine

    def __post_init__(self) -> None:
        for name in ("gpus", "gpu_memory_gib", "memory_gib"):
            if getattr(self, name) < 0:
                raise EngineConfigError(
                    f"hardware.{name} must be 0 or more, not {getattr(self, name)}"
                )


@dataclass(frozen=True)
class ProfileLimits:
    """The limits of `engine.json`; 0 leaves the choice to the build, which gives its reason."""

    max_seq_len: int = 0
    max_batch_size: int = 0
    max_num_tokens: int = 0
    max_queue_size: int = 64
    hang_timeout_s: float = 300.0

    def __post_init__(self) -> None:
        for name in ("max_seq_len", "max_batch_size", "max_num_tokens", "max_queue_size"):
            if getattr(self, name) < 0:
                raise EngineConfigError(
                    f"limits.{name} must be 0 or more, not {getattr(self, name)}"
                )
        if self.hang_timeout_s <= 0:
            raise EngineConfigError(
                f"limits.hang_timeout_s must be above 0, not {self.hang_timeout_s:g}"
            )


@dataclass(frozen=True)
class Tolerances:
    """How far the served model may be from the dequantized checkpoint."""

    same_tokens: bool = False  # greedy tokens must be equal where the reference is sure
    max_logprob_error: float = 0.5  # of a token, the mean over all
    max_perplexity_ratio: float = 1.1  # served to reference

    def __post_init__(self) -> None:
        if self.max_logprob_error < 0 or self.max_perplexity_ratio < 1:
            raise EngineConfigError(
                "verify.max_logprob_error must be 0 or more and max_perplexity_ratio 1 or more, "
                f"not {self.max_logprob_error:g} and {self.max_perplexity_ratio:g}"
            )


def run_precision(info: Mapping[str, str]) -> str:
    """An engine's precision, from the labels of its metric: "f32", or "f32-f16" if the KV cache has
    another than the arithmetic; "" for a runtime that does not report it."""
    precision, kv_cache = info.get("precision", ""), info.get("kv_cache_precision", "")
    return precision if kv_cache in ("", precision) else f"{precision}-{kv_cache}"


@dataclass(frozen=True)
class Profile:
    """One file. `runtime_options` belongs to the runtime, which validates it at compile time."""

    description: str
    model_name: str
    runtime: str
    checkpoint: CheckpointSource
    hardware: Hardware = field(default_factory=Hardware)
    limits: ProfileLimits = field(default_factory=ProfileLimits)
    runtime_options: dict[str, Any] = field(default_factory=dict)
    verify: Tolerances = field(default_factory=Tolerances)
    # For a runtime that settles on a precision when it loads: by that, see `run_precision`.
    verify_precision: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.runtime not in RUNTIMES:
            raise EngineConfigError(
                f"runtime must be one of {', '.join(sorted(RUNTIMES))}, not {self.runtime!r}"
            )
        for name in self.verify_precision:
            self.tolerances(name)

    def tolerances(self, precision: str) -> Tolerances:
        """For an engine in `precision`; `verify` if the profile does not name that precision.

        Raises `EngineConfigError`."""
        if precision not in self.verify_precision:
            return self.verify
        table = self.verify_precision[precision]
        return parse_section(Tolerances, table, f"verify_precision.{precision}")


def profile_names() -> list[str]:
    """The profiles that come with the repository."""
    return sorted(path.stem for path in PROFILES.glob("*.toml"))


def load_profile(name_or_path: str) -> Profile:
    """Read a profile by its name or its file; raises `BuildError`."""
    if sys.version_info >= (3, 11):
        import tomllib
    else:
        import tomli as tomllib
    path = PROFILES / f"{name_or_path}.toml"
    if not path.is_file():
        path = Path(name_or_path)
    try:
        document = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise BuildError(
            f"there is no profile {name_or_path!r}; give a file, or one of "
            f"{', '.join(profile_names())}"
        ) from None
    except (OSError, ValueError, RecursionError) as error:
        raise BuildError(f"{path} cannot be read ({error}); correct it") from None
    try:
        return parse_section(Profile, document, "profile")
    except EngineConfigError as error:
        raise BuildError(f"{path}: {error}") from None
