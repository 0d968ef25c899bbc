"""The locks of each set-up agree with pyproject.toml's ranges and with each other; no network."""

from __future__ import annotations

import functools
import importlib.metadata
import re
import sys
from pathlib import Path

import pytest
import setup_environment
from make_locks import SETUPS
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version
from setup_environment import ALL, INSTALLER, LOCKED, LOCKS, SUPPORTED, lock_of

from tests.support.paths import ROOT

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
RANGES = PROJECT["project"]["optional-dependencies"]
GROUPS = PROJECT["dependency-groups"]
PYTHONS = [".".join(map(str, version)) for version in SUPPORTED]
NAMES = [*SETUPS, INSTALLER]

Pins = dict[str, Version]


def environment(python: str) -> dict[str, str]:
    """The platform that the locks are for."""
    return {
        "python_version": python,
        "python_full_version": f"{python}.9",
        "implementation_name": "cpython",
        "platform_python_implementation": "CPython",
        "platform_machine": "x86_64",
        "platform_system": "Linux",
        "sys_platform": "linux",
        "os_name": "posix",
        "extra": "",
    }


@functools.cache
def entries(name: str) -> list[str]:
    """Each pin with its hashes, as one text."""
    text = lock_of(name).read_text(encoding="utf-8")
    return [entry.replace("\\\n", " ") for entry in re.split(r"\n(?=\S)", text.strip())]


@functools.cache
def pins(name: str, python: str) -> Pins:
    """What a lock installs on one version of Python; a name that is pinned twice fails."""
    found: Pins = {}
    for entry in entries(name):
        pin = Requirement(entry.split(" --hash=")[0].strip())
        if pin.marker is not None and not pin.marker.evaluate(environment(python)):
            continue
        (specifier,) = pin.specifier
        key = canonicalize_name(pin.name)
        assert key not in found
        assert specifier.operator == "=="
        found[key] = Version(specifier.version)
    return found


def asked(name: str, python: str) -> list[Requirement]:
    """pyproject.toml's ranges that a set-up must satisfy on one version of Python."""
    if name == INSTALLER:
        texts = GROUPS[INSTALLER]
    else:
        texts = [*PROJECT["project"]["dependencies"], *GROUPS["build"]]
        texts += [text for extra in SETUPS[name] for text in RANGES[extra]]
    wanted = [Requirement(text) for text in texts]
    here = environment(python)
    return [each for each in wanted if each.marker is None or each.marker.evaluate(here)]


def test_every_set_up_has_a_lock() -> None:
    assert {path.stem for path in LOCKS.iterdir()} == set(NAMES)
    assert set(SETUPS) == set(LOCKED)
    assert set(SETUPS[ALL]) == set(LOCKED)


@pytest.mark.parametrize("python", PYTHONS)
@pytest.mark.parametrize("name", NAMES)
def test_a_lock_satisfies_the_ranges(name: str, python: str) -> None:
    locked = pins(name, python)
    for requirement in asked(name, python):
        version = locked.get(canonicalize_name(requirement.name))
        assert version is not None, f"{requirement} is not in {name}.txt: run 'make lock'"
        assert requirement.specifier.contains(version), f"{requirement} but {version} is locked"


@pytest.mark.parametrize("python", PYTHONS)
@pytest.mark.parametrize("name", [name for name in SETUPS if name != ALL])
def test_set_ups_for_one_environment_lock_the_same_versions(name: str, python: str) -> None:
    assert pins(name, python).items() <= pins(ALL, python).items()


@pytest.mark.parametrize("name", NAMES)
def test_a_lock_names_versions_and_hashes_and_nothing_else(name: str) -> None:
    """No index, host or path: any index can serve it."""
    for entry in entries(name):
        pin, *hashes = entry.split(" --hash=")
        assert re.fullmatch(r"[a-z0-9-]+==[\w.+!]+( ; [\w.'<>=! ()]+)?\s*", pin)
        assert hashes
        assert all(re.fullmatch(r"sha256:[0-9a-f]{64}\s*", each) for each in hashes)


def test_no_lock_holds_torch() -> None:
    for python in PYTHONS:
        assert not {"torch", "triton", "nvidia-cublas"} & pins(ALL, python).keys()


@pytest.mark.parametrize("name", SETUPS)
def test_a_lock_is_complete(name: str) -> None:
    """The lock has everything that the packages installed here need."""
    python = f"{sys.version_info.major}.{sys.version_info.minor}"
    locked = pins(name, python)
    todo = [(each, extra) for each in asked(name, python) for extra in ("", *each.extras)]
    seen = set()
    while todo:
        requirement, extra = todo.pop()
        key = (canonicalize_name(requirement.name), extra)
        if key in seen:
            continue
        seen.add(key)
        assert key[0] in locked, f"{requirement.name} is missing in {name}.txt"
        try:
            needed = importlib.metadata.requires(requirement.name) or []
        except importlib.metadata.PackageNotFoundError:
            continue  # e.g. hatchling, where another installer made the environment
        for text in needed:
            one = Requirement(text)
            if one.marker is None or one.marker.evaluate({**environment(python), "extra": extra}):
                todo += [(one, more) for more in ("", *one.extras)]


def test_the_locks_are_part_of_the_stamp(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "one.txt").write_text("a==1")
    monkeypatch.setattr(setup_environment, "LOCKS", tmp_path)
    before = setup_environment.pins()
    (tmp_path / "one.txt").write_text("a==2")
    assert setup_environment.pins() != before
