"""`make install` in a small project: uv with the lock, pip with the same lock where uv fails."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import shutil
import subprocess
import sys
import zipfile
from dataclasses import dataclass
from pathlib import Path

import pytest
from host.index_settings import pip_settings, uv_settings

from tests.support.paths import BUILD

# A project that builds itself, so that nothing is fetched.
PYPROJECT = """
[build-system]
requires = []
build-backend = "backend"
backend-path = ["."]
"""
BACKEND = """
import zipfile

def build_editable(folder, settings=None, metadata=None):
    name, info = "tried-1-py3-none-any.whl", "tried-1.dist-info"
    with zipfile.ZipFile(f"{folder}/{name}", "w") as wheel:
        wheel.writestr("tried.pth", "")
        wheel.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\\nName: tried\\nVersion: 1\\n")
        wheel.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\\nTag: py3-none-any\\n")
        wheel.writestr(f"{info}/RECORD", f"tried.pth,,\\n{info}/METADATA,,\\n{info}/WHEEL,,\\n")
    return name
"""
# The uv of the test environment, under a wheel of the test's own; it notes how it is called.
UV = """#!/bin/sh
env > "{folder}/uv.environment"; echo "$@" >> "{folder}/uv.calls"
exec {uv} "$@"
"""


@dataclass(frozen=True)
class Project:
    """A copy of the scripts, in a project of one small package."""

    folder: Path
    wheels: Path

    def lock(self, name: str, package: str) -> None:
        """`package` is the only one that the set-up needs."""
        locks = self.folder / "build" / "locks"
        locks.mkdir(parents=True, exist_ok=True)
        (wheel,) = self.wheels.glob(f"{package}-1-*.whl")
        digest = hashlib.sha256(wheel.read_bytes()).hexdigest()
        (locks / f"{name}.txt").write_text(f"{package}==1 --hash=sha256:{digest}\n")

    def install(self, **more: str) -> subprocess.CompletedProcess[str]:
        """Run setup_environment.py as make does, with the wheels as pip's only source."""
        kept = {name: value for name, value in os.environ.items() if name[:3] not in ("UV_", "PIP")}
        source = {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(self.wheels)}
        alone = {"PIP_CONFIG_FILE": os.devnull, "UV_CACHE_DIR": str(self.folder / "cache")}
        script = [sys.executable, str(self.folder / "build" / "setup_environment.py")]
        environment = {**kept, **source, **alone, **more}
        return subprocess.run(script, capture_output=True, text=True, env=environment)

    def module(self) -> Path:
        """The file that the package brings."""
        version = f"python{sys.version_info.major}.{sys.version_info.minor}"
        return self.folder / ".venv" / "lib" / version / "site-packages" / "small.py"


def write_wheel(folder: Path, name: str, files: dict[str, str]) -> None:
    """A wheel of version 1, with the given files, all of them executable."""
    info = f"{name}-1.dist-info"
    metadata = f"Metadata-Version: 2.1\nName: {name}\nVersion: 1\n"
    files = files | {f"{info}/METADATA": metadata, f"{info}/WHEEL": "Wheel-Version: 1.0\n"}
    files[f"{info}/WHEEL"] += "Root-Is-Purelib: true\nTag: py3-none-any\n"
    record = ""
    with zipfile.ZipFile(folder / f"{name}-1-py3-none-any.whl", "w") as wheel:
        for path, text in files.items():
            member = zipfile.ZipInfo(path)
            member.external_attr = 0o100755 << 16
            wheel.writestr(member, text)
            digest = base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest())
            record += f"{path},sha256={digest.decode().rstrip('=')},{len(text)}\n"
        wheel.writestr(f"{info}/RECORD", f"{record}{info}/RECORD,,\n")


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    folder = tmp_path_factory.mktemp("project")
    (folder / "build").mkdir()
    (folder / "build" / "host").mkdir()
    for script in ("setup_environment.py", "host/index_settings.py"):
        shutil.copy(BUILD / script, folder / "build" / script)
    (folder / "pyproject.toml").write_text(PYPROJECT)
    (folder / "backend.py").write_text(BACKEND)
    made = Project(folder, folder / "wheels")
    made.wheels.mkdir()
    uv = UV.format(folder=folder, uv=Path(sys.prefix) / "bin" / "uv")
    write_wheel(made.wheels, "uv", {"uv-1.data/scripts/uv": uv})
    write_wheel(made.wheels, "small", {"small.py": "one = 1\n"})
    made.lock("installer", "uv")
    made.lock("server", "small")
    return made


def begin_anew(project: Project) -> None:
    """As if nothing had been installed, in an environment that is there."""
    (project.folder / ".venv" / "installed.json").unlink(missing_ok=True)
    project.module().unlink(missing_ok=True)
    for info in project.module().parent.glob("small-1.dist-info"):
        shutil.rmtree(info)


def test_pip_installs_the_lock_where_uv_cannot_be_had(project: Project) -> None:
    """No uv on the index: said in one line, and the work is done."""
    (wheel,) = project.wheels.glob("uv-*")
    wheel.rename(project.folder / wheel.name)
    try:
        done = project.install()
    finally:
        (project.folder / wheel.name).rename(wheel)
    assert done.returncode == 0, done.stderr
    said = "install: uv could not be installed (see above), so pip does: the same versions, slower"
    assert said in done.stdout.splitlines()
    assert project.module().read_text() == "one = 1\n"
    assert project.install().stdout == ""  # nothing to do
    begin_anew(project)


def test_uv_installs_the_lock_from_where_pip_looks(project: Project) -> None:
    if not (Path(sys.prefix) / "bin" / "uv").exists():
        pytest.skip("this environment was not made by make")
    done = project.install()
    assert done.returncode == 0, done.stderr
    assert "pip" not in done.stdout
    assert project.module().exists()
    told = (project.folder / "uv.environment").read_text().splitlines()
    assert f"UV_FIND_LINKS={project.wheels}" in told
    packages, editable = (project.folder / "uv.calls").read_text().splitlines()
    assert "--require-hashes" in packages
    assert "--no-index" in packages
    assert "--editable" in editable


def test_an_install_that_was_killed_is_made_whole(project: Project) -> None:
    """The package is half there, with its metadata: to an installer it looks whole."""
    assert project.install().returncode == 0
    environment = project.folder / ".venv"
    (environment / "installed.json").unlink()
    (environment / "installing").touch()
    project.module().unlink()
    assert project.install().returncode == 0
    assert project.module().exists()
    assert not (environment / "installing").exists()
    assert json.loads((environment / "installed.json").read_text())["extras"] == ["server"]


def test_a_wheel_that_is_not_the_locked_one_is_refused(project: Project) -> None:
    begin_anew(project)
    lock = project.folder / "build" / "locks" / "server.txt"
    right = lock.read_text()
    lock.write_text("small==1 --hash=sha256:" + "0" * 64 + "\n")
    try:
        done = project.install()
    finally:
        lock.write_text(right)
    assert done.returncode == 1
    assert not project.module().exists()
    assert not (project.folder / ".venv" / "installed.json").exists()
    assert "the packages could not be installed" in done.stderr.splitlines()[-1]


def test_pips_settings_are_read_from_its_files_and_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """PIP_* over [install] over [global], as pip itself has it."""
    for name in [name for name in os.environ if name.startswith("PIP_")]:
        monkeypatch.delenv(name)
    file = tmp_path / "pip.conf"
    file.write_text(
        "[global]\nindex-url = https://mirror.example/simple\ntimeout = 20\n"
        "extra-index-url =\n    https://one.example/simple\n    https://two.example/simple\n"
        "[install]\ntimeout = 30\n[list]\nfind-links = /nowhere\n"
    )
    monkeypatch.setenv("PIP_CONFIG_FILE", str(file))
    monkeypatch.setenv("PIP_TRUSTED_HOST", "mirror.example")
    found = pip_settings(Path(sys.executable))
    assert found["index-url"] == "https://mirror.example/simple"
    assert found["timeout"] == "30"
    assert found["trusted-host"] == "mirror.example"
    _, environment = uv_settings(found, {})
    environment.pop("SSL_CERT_FILE", None)  # a machine's own pip.conf is read beside it
    assert environment == {
        "UV_DEFAULT_INDEX": "https://mirror.example/simple",
        "UV_INDEX": "https://one.example/simple https://two.example/simple",
        "UV_INDEX_STRATEGY": "unsafe-best-match",
        "UV_HTTP_TIMEOUT": "30",
        "UV_INSECURE_HOST": "mirror.example",
    }


def test_what_is_said_to_uv_itself_comes_first() -> None:
    pip = {"index-url": "https://pip.example/simple", "extra-index-url": "https://more.example"}
    pip |= {"timeout": "7"}
    given = {"UV_INDEX_URL": "https://uv.example/simple", "PATH": "/bin", "UV_HTTP_TIMEOUT": "9"}
    assert uv_settings(pip, given) == ([], given)
    assert uv_settings({"no-index": "true"}, {}) == (["--no-index"], {})
    assert uv_settings({"no-index": "0"}, {}) == ([], {})
