"""Put a compiled engine into a model repository: every room gets the files that it reads.

Without --output the engine goes into this checkout's own model_repository/. With --output DIR the
result is a repository that needs nothing from this checkout, with a manifest of hashes; --check DIR
compares such a repository, or a copy, with its manifest. With --unary its `ensemble` and
`tensorrt_llm` give one response per request and echo the prompt, as upstream's do by default, for
clients that call unary infer() on them.
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path

from host.console import BuildError, Phase, run_script, say, script_imports
from repository.manifest import MANIFEST, check_manifest, write_manifest
from repository.unary import kind_of, make_unary

with script_imports(__name__):
    from checkpoints.text import FILES_READ, FOLDERS_READ, TOKENIZER, check_rooms
    from engines.step import link_or_copy

    # The files of an engine that each room needs; None: all of them.
    ROOM_FILES: dict[str, tuple[str, ...] | None] = {
        "preprocessing": ("engine.json", TOKENIZER),
        "tensorrt_llm": None,
        "postprocessing": ("engine.json", "token_bytes.npz"),
    }
    OPTIONAL_FILES = {"preprocessing": (*FILES_READ, *FOLDERS_READ)}

ROOT = Path(__file__).resolve().parent.parent
SOURCE = ROOT / "model_repository"


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--engine", type=Path, help="directory that compile_engine.py made")
    what.add_argument("--check", type=Path, metavar="DIR", help="a repository with a manifest")
    parser.add_argument(
        "--output", type=Path, default=SOURCE, help="model repository (default: this checkout's)"
    )
    parser.add_argument(
        "--unary",
        action="store_true",
        help="one response per request and the prompt echoed, as upstream's default; with --output",
    )
    options = parser.parse_args()
    if options.check:
        count = check_manifest(options.check)
        say(f"{options.check} is whole: {count} files are what its manifest says")
        say(f"its ensemble is {kind_of(options.check)}")
    else:
        assemble(options.engine, options.output, options.unary)
        say(f"{options.output} is ready to serve; its ensemble is {kind_of(options.output)}")


def assemble(engine: Path, output: Path, unary: bool = False) -> None:
    """Put `engine` into the model repository `output`, made from this checkout's if it is new."""
    if unary and output.resolve() == SOURCE.resolve():
        raise BuildError(
            f"--unary changes a configuration that {SOURCE.name}/ keeps as it is committed; "
            "give another folder with --output"
        )
    if not (engine / "engine.json").is_file():
        raise BuildError(
            f"{engine} is not an engine: it has no engine.json; make one with 'make engine'"
        )
    _check_complete(engine)
    check_rooms(engine)
    with Phase(f"assemble {output.name}"):
        if output.resolve() != SOURCE.resolve():
            _copy_rooms(output)
        if unary:
            make_unary(output)
        for room, names in ROOM_FILES.items():
            _install(engine, names, OPTIONAL_FILES.get(room, ()), output / room / "1" / "engine")
    if output.resolve() != SOURCE.resolve():
        write_manifest(output)


def _copy_rooms(output: Path) -> None:
    ours = (output / "ensemble" / "config.pbtxt").is_file() or (output / MANIFEST).is_file()
    if output.is_dir() and any(output.iterdir()) and not ours:
        raise BuildError(f"{output} is not empty and not a model repository; give another --output")
    # Without its manifest a repository counts as incomplete, as after a kill.
    for left in output.glob(f"{MANIFEST}*"):
        left.unlink()
    for room in SOURCE.iterdir():
        shutil.rmtree(output / room.name, ignore_errors=True)
    ignored = shutil.ignore_patterns("engine", "engine.partial", "engine.old", "__pycache__")
    # Object stores drop empty folders, so the ensemble's version folder has a .gitkeep.
    shutil.copytree(SOURCE, output, ignore=ignored, dirs_exist_ok=True)


def _check_complete(engine: Path) -> None:
    """Raise `BuildError` for a missing file, before any room's files are replaced."""
    needed = dict.fromkeys(name for names in ROOM_FILES.values() for name in names or ())
    missing = [name for name in needed if not (engine / name).is_file()]
    if missing:
        raise BuildError(
            f"{engine} lacks {', '.join(missing)}; compile it again with 'make engine'"
        )


def _install(
    engine: Path, names: tuple[str, ...] | None, optional: tuple[str, ...], target: Path
) -> None:
    """Fill a folder beside `target` and swap the two, so that a room never sees it half filled."""
    aside, old = target.with_name("engine.partial"), target.with_name("engine.old")
    for folder in (aside, old):
        shutil.rmtree(folder, ignore_errors=True)
    aside.mkdir(parents=True)
    for source in sorted(engine.iterdir()):
        if names is None or source.name in (*names, *optional):
            _place(source, aside / source.name)
    if target.exists():
        target.rename(old)
    aside.rename(target)
    shutil.rmtree(old, ignore_errors=True)


def _place(source: Path, target: Path) -> None:
    """Hard-link or copy a file, or every file of a folder."""
    if not source.is_dir():
        link_or_copy(source, target)
        return
    target.mkdir()
    for path in sorted(source.iterdir()):
        _place(path, target / path.name)


if __name__ == "__main__":
    run_script(main)
