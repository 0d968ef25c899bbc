#!/usr/bin/env python3
"""Step one of the build: an NVFP4 checkpoint, whole and checked, in a folder.

    python build/fetch_checkpoint.py --output DIR                      from the hub
    python build/fetch_checkpoint.py --from FOLDER --output DIR        from this machine
    python build/fetch_checkpoint.py --check DIR                       in place

A fetch from the hub that was interrupted or killed goes on with the missing files of the same
commit. Every file is compared with its stated size and hash, every tensor with config.json, every
value with what the format allows. DIR appears whole or not at all.
"""

from __future__ import annotations

import argparse
import re
from dataclasses import dataclass
from pathlib import Path

from host.console import BuildError, run_script, script_imports, stop_resumable
from host.output_folder import resumable_folder

with script_imports(__name__):
    from checkpoints.fetch import COMMIT, fetch
    from checkpoints.local import check_in_place, import_from

# One repository: it was published under the first name, and later under the second.
REPOS = ("nvidia/Llama-3.1-8B-Instruct-FP4", "nvidia/Llama-3.1-8B-Instruct-NVFP4")
REPO = re.compile(r"[\w.-]+/[\w.-]+")


@dataclass(frozen=True)
class Options:
    """The command line; None stands for an option that was not given."""

    output: Path | None
    repo: str | None
    revision: str | None
    source: Path | None
    check: Path | None
    sha256: Path | None


def _arguments() -> Options:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--output", type=Path, help="the checkpoint's folder")
    add("--repo", help=f"on the hub ({REPOS[0]}, or {REPOS[1]})")
    add("--revision", help="a commit id (what `main` is at the first fetch)")
    add("--from", dest="source", type=Path, metavar="DIR", help="a folder with the checkpoint")
    add("--check", type=Path, metavar="DIR", help="check this folder, copy nothing")
    add("--sha256", type=Path, metavar="FILE",
        help="hashes that --from or --check must have, as sha256sum prints them")  # fmt: skip
    return Options(**vars(parser.parse_args()))


def run(options: Options) -> None:
    """Do what the options say; raises `BuildError`."""
    _check_options(options)
    if options.check:
        check_in_place(options.check, options.sha256)
        return
    if options.output is None:
        raise BuildError("--output is missing; give the folder that the checkpoint goes to")
    if options.source:
        import_from(options.source, options.output, options.sha256)
    else:
        fetch((options.repo,) if options.repo else REPOS, options.revision or "", options.output)


def _check_options(options: Options) -> None:
    local = "--check" if options.check else "--from" if options.source else ""
    if options.check and options.source:
        raise BuildError("--check and --from exclude each other; give one of them")
    if options.check and options.output:
        raise BuildError("--check copies nothing; leave out --output, or give --from")
    if local and (options.repo or options.revision):
        raise BuildError(f"{local} does not ask the hub; leave out --repo and --revision")
    if options.sha256 and not local:
        raise BuildError("--sha256 is for --from and --check; the hub states its own hashes")
    if options.repo and not REPO.fullmatch(options.repo):
        raise BuildError(f"--repo must be 'owner/name', not {options.repo!r}")
    if options.revision and not COMMIT.fullmatch(options.revision):
        raise BuildError(
            f"--revision must be a commit id of 40 hex digits, not {options.revision!r}; without "
            "--revision the first fetch takes what `main` is and remembers its id"
        )


def main() -> None:
    """The command line's entry."""
    options = _arguments()
    try:
        run(options)
    except KeyboardInterrupt:
        if options.output is None or options.source:
            raise
        folder = resumable_folder(options.output)
        if not folder.exists():
            raise
        stop_resumable("what has arrived", folder)


if __name__ == "__main__":
    run_script(main)
