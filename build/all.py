#!/usr/bin/env python3
"""The whole build in a row: machine, checkpoint, engine, model repository, and its verification.

    python build/all.py --profile llama-3.1-8b-b200 --output DIR

It makes checkpoint/, engine/, repository/, reference.json and verify.log in DIR. Each step is a
script that does no expensive work twice, so after any interruption the same command continues. The
machine is checked before anything is fetched.
"""

from __future__ import annotations

import argparse
import shlex
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from engines.profile import Profile, load_profile, profile_names
from host.console import BuildError, run_script, say, script_imports
from serve import check_path

with script_imports(__name__):
    from serving.child_server import Ports, ServerProcess, free_ports

BUILD = Path(__file__).resolve().parent


@dataclass(frozen=True)
class Options:
    """The command line."""

    profile: str  # a name or a file
    output: Path
    runtime: str | None
    checkpoint: Path | None
    quantize: Path | None
    calib_data: Path | None
    unary: bool
    no_verify: bool


@dataclass(frozen=True)
class Step:
    """One script and its arguments."""

    name: str
    script: str
    arguments: tuple[str, ...]

    def run(self) -> None:
        """Run it; if it fails, it has said why, and this process ends with its exit code."""
        command = [sys.executable, str(BUILD / self.script), *self.arguments]
        code = subprocess.call(command)
        if code:
            again = shlex.join([sys.executable, *sys.argv])
            print(f"stopped at step '{self.name}'; continue with: {again}", file=sys.stderr)
            raise SystemExit(code if code > 0 else 128 - code)


def steps(options: Options, profile: Profile) -> Iterator[Step]:
    """The steps before the server can start, in order."""
    output = options.output
    checkpoint = options.checkpoint or output / "checkpoint"
    chosen = ("--profile", options.profile)
    runtime = ("--runtime", options.runtime) if options.runtime else ()
    yield Step("machine", "compile_engine.py", (*chosen, *runtime, "--check-machine"))
    if options.quantize:
        calibration = ("--calib-data", str(options.calib_data)) if options.calib_data else ()
        model = ("--model", str(options.quantize), "--output", str(checkpoint))
        yield Step("quantize", "quantize.py", (*model, *calibration))
    elif not options.checkpoint:
        yield Step(
            "checkpoint", "fetch_checkpoint.py", (*_source(profile), "--output", str(checkpoint))
        )
    engine = ("--checkpoint", str(checkpoint), "--output", str(output / "engine"))
    yield Step("engine", "compile_engine.py", (*chosen, *runtime, *engine))
    unary = ("--unary",) if options.unary else ()
    repository = (
        "--engine",
        str(output / "engine"),
        "--output",
        str(output / "repository"),
        *unary,
    )
    yield Step("repository", "assemble_repository.py", repository)
    yield Step("check", "assemble_repository.py", ("--check", str(output / "repository")))
    if not options.no_verify:
        reference = ("--checkpoint", str(checkpoint), "--output", str(output / "reference.json"))
        yield Step("reference", "make_reference.py", reference)


def _source(profile: Profile) -> tuple[str, ...]:
    source = profile.checkpoint
    if source.directory:
        return ("--from", str(BUILD.parent / source.directory))
    revision = ("--revision", source.revision) if source.revision else ()
    return ("--repo", source.repo, *revision)


def verify(options: Options, ports: Ports) -> None:
    """Serve the assembled repository and compare it with the reference; raises `BuildError`."""
    output = options.output
    checkpoint = options.checkpoint or output / "checkpoint"
    server = ServerProcess(output / "repository", ports, output / "verify.log")
    try:
        server.start()
        where = ("--host", ports.host, "--grpc-port", str(ports.grpc))
        metrics = ("--metrics-port", str(ports.metrics))
        what = ("--reference", str(output / "reference.json"), "--checkpoint", str(checkpoint))
        Step("verify", "verify.py", (*what, "--profile", options.profile, *where, *metrics)).run()
    finally:
        server.stop()


def main() -> None:
    """The command line."""
    options = _arguments()
    profile = load_profile(options.profile)
    if not options.no_verify:  # the last step serves the repository, in the server found here
        check_path(BUILD)
        check_path(options.output.absolute())
    options.output.mkdir(parents=True, exist_ok=True)
    planned = list(steps(options, profile))
    count = len(planned) + (not options.no_verify)
    started = time.monotonic()
    for number, step in enumerate(planned, 1):
        say(f"step {number} of {count}: {step.name}")
        step.run()
    if not options.no_verify:
        say(f"step {count} of {count}: verify")
        verify(options, free_ports())
    repository = options.output / "repository"
    say(f"all done in {time.monotonic() - started:.0f} s; serve it with:")
    serve = [sys.executable, str(BUILD / "serve.py"), "--model-repository", str(repository)]
    say(f"  {shlex.join(serve)}")


def _arguments() -> Options:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--profile", required=True, help=f"a file, or one of {', '.join(profile_names())}")
    add("--output", type=Path, help="the folder for all results (build/out/deployments/PROFILE)")
    add("--runtime", help="instead of the profile's")
    add(
        "--checkpoint",
        type=Path,
        help="an NVFP4 checkpoint on this machine, instead of a fetched one",
    )
    add(
        "--quantize",
        type=Path,
        metavar="DIR",
        help="quantize this BF16 model, instead of fetching a checkpoint",
    )
    add("--calib-data", type=Path, metavar="FILE", help="for --quantize (cnn_dailymail)")
    add("--unary", action="store_true", help="the repository gives one response a request")
    add("--no-verify", action="store_true", help="leave out the comparison with the reference")
    options = Options(**vars(parser.parse_args()))
    if options.checkpoint and options.quantize:
        raise BuildError("--checkpoint and --quantize exclude each other; give one of them")
    if options.calib_data and not options.quantize:
        raise BuildError("--calib-data is for --quantize; leave it out")
    output = options.output or BUILD / "out" / "deployments" / Path(options.profile).stem
    return replace(options, output=output.resolve())


if __name__ == "__main__":
    run_script(main)
