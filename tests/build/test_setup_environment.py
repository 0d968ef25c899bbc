"""`make install` in a small project: uv with the lock, pip with the same lock where uv fails."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import zipfile
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote

import pytest
import setup_environment
from host.index_settings import pip_settings, uv_settings

from tests.support.paths import BUILD, ROOT

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


with_uv = pytest.mark.skipif(
    not (Path(sys.prefix) / "bin" / "uv").exists(), reason="this environment was not made by make"
)


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

    def install(self, *arguments: str, **more: str) -> subprocess.CompletedProcess[str]:
        """Run setup_environment.py as make does, with the wheels as pip's only source."""
        kept = {name: value for name, value in os.environ.items() if name[:3] not in ("UV_", "PIP")}
        source = {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(self.wheels)}
        alone = {"PIP_CONFIG_FILE": os.devnull, "UV_CACHE_DIR": str(self.folder / "cache")}
        script = [sys.executable, str(self.folder / "build" / "setup_environment.py"), *arguments]
        environment = {**kept, **source, **alone, **more}
        return subprocess.run(script, capture_output=True, text=True, env=environment)

    def uv_calls(self) -> list[str]:
        """What uv has been asked since this was asked last."""
        calls = self.folder / "uv.calls"
        called = calls.read_text().splitlines() if calls.exists() else []
        calls.unlink(missing_ok=True)
        return called

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
    for script in ("setup_environment.py", "host/index_settings.py", "host/shell_path.py"):
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


def start_over(project: Project) -> None:
    """As if nothing had been installed, in an environment that is there."""
    (project.folder / ".venv" / "installed.json").unlink(missing_ok=True)
    project.module().unlink(missing_ok=True)
    for info in project.module().parent.glob("small-1.dist-info"):
        shutil.rmtree(info)


def test_pip_installs_the_lock_if_uv_is_missing(project: Project) -> None:
    """No uv on the index: one line says so, and pip does the work."""
    (wheel,) = project.wheels.glob("uv-*")
    wheel.rename(project.folder / wheel.name)
    try:
        done = project.install()
    finally:
        (project.folder / wheel.name).rename(wheel)
    assert done.returncode == 0, done.stderr
    said = "install: uv could not be installed (see above); pip installs the same versions, slower"
    assert said in done.stdout.splitlines()
    assert project.module().read_text() == "one = 1\n"
    assert project.install().stdout == ""  # nothing to do
    start_over(project)


@with_uv
def test_uv_installs_the_lock_from_pips_index(project: Project) -> None:
    done = project.install()
    assert done.returncode == 0, done.stderr
    assert "pip" not in done.stdout
    assert project.module().exists()
    variables = (project.folder / "uv.environment").read_text().splitlines()
    assert f"UV_FIND_LINKS={project.wheels}" in variables
    packages, editable = project.uv_calls()
    assert "--require-hashes" in packages
    assert "--no-index" in packages
    assert "--editable" in editable


@with_uv
def test_a_killed_install_is_completed(project: Project) -> None:
    """The packages are half there, with their metadata: to an installer they look whole."""
    assert project.install().returncode == 0
    environment = project.folder / ".venv"
    (environment / "installed.json").unlink()
    (environment / "installing").touch()
    project.module().unlink()
    (environment / "bin" / "uv").unlink()
    done = project.install()
    assert done.returncode == 0
    assert "pip" not in done.stdout
    assert project.module().exists()
    assert not (environment / "installing").exists()
    assert json.loads((environment / "installed.json").read_text())["extras"] == ["server"]


@with_uv
@pytest.mark.parametrize("damage", ["missing", "may not be run", "of another machine"])
def test_pip_takes_over_if_uv_cannot_run(project: Project, damage: str) -> None:
    assert project.install().returncode == 0
    start_over(project)
    uv = project.folder / ".venv" / "bin" / "uv"
    uv.unlink()
    if damage != "missing":
        uv.write_bytes(b"\x7fELF")
        uv.chmod(0o755 if damage == "of another machine" else 0o644)
    done = project.install()
    assert done.returncode == 0, done.stderr
    assert "install: uv could not install the packages" in done.stdout
    assert "Traceback" not in done.stderr
    assert project.module().exists()
    (project.folder / ".venv" / "installing").touch()
    start_over(project)
    assert "pip" not in project.install().stdout  # and uv is there again


# A Python that lacks what Debian has in python3-venv, or a Ctrl-C, leaves a Python without pip.
HALF_MADE = """
import os, sys
folder = sys.argv[-1]
os.makedirs(f"{folder}/bin")
with open(f"{folder}/pyvenv.cfg", "w") as settings:
    print(f"home = {os.path.dirname(sys._base_executable)}", file=settings)
    print("include-system-site-packages = false", file=settings)
os.symlink(sys.executable, f"{folder}/bin/python")
sys.exit(1)
"""


def test_a_half_made_environment_is_made_again(project: Project, tmp_path: Path) -> None:
    (tmp_path / "venv.py").write_text(HALF_MADE)
    shutil.rmtree(project.folder / ".venv", ignore_errors=True)
    done = project.install(PYTHONPATH=str(tmp_path))
    assert done.returncode == 1
    assert done.stderr.startswith("error: Python's venv module could not make ")
    assert project.install().returncode == 0
    assert project.module().exists()


def test_an_environment_without_pip_gets_it(project: Project) -> None:
    """As uv makes them."""
    environment = project.folder / ".venv"
    make = [sys.executable, "-m", "venv", "--clear", "--without-pip", str(environment)]
    subprocess.run(make, check=True)
    done = project.install()
    assert done.returncode == 0, done.stderr
    assert f"install: {environment} has no pip; installing it first" in done.stdout
    assert project.module().exists()


@pytest.mark.parametrize(
    ("python", "reason"),
    [
        ("echo 3.13", "has Python 3.13, but must have one of 3.10, 3.11, 3.12"),
        ("exit 1", "is broken"),
        ('test "$1" != -m && echo 3.11', "has no working pip"),
    ],
)
def test_an_unusable_environment_is_named_and_kept(
    project: Project, tmp_path: Path, python: str, reason: str
) -> None:
    command = tmp_path / "bin" / "python"
    command.parent.mkdir()
    command.write_text(f"#!/bin/sh\n{python}\n")
    command.chmod(0o755)
    done = project.install("--venv", str(tmp_path))
    remedy = "remove that folder and run the same command again"
    assert (done.returncode, done.stderr) == (1, f"error: {tmp_path} {reason}; {remedy}\n")
    assert command.exists()


def test_a_folder_of_other_things_is_left_alone(project: Project, tmp_path: Path) -> None:
    (tmp_path / "mine").touch()
    done = project.install("--venv", str(tmp_path))
    sentence = f"{tmp_path} is not empty and not a virtual environment; give VENV another folder"
    assert (done.returncode, done.stderr) == (1, f"error: {sentence}\n")
    done = project.install("--venv", str(tmp_path / "mine"))
    assert done.returncode == 1
    assert re.fullmatch(r"error: .*mine'; fix that and run the same command again\n", done.stderr)
    assert (tmp_path / "mine").exists()


def test_ctrl_c_is_one_sentence(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def stopped(*_: object) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr(setup_environment, "_set_up", stopped)
    monkeypatch.setattr(sys, "argv", ["setup_environment.py"])
    assert setup_environment.main() == 130
    assert capsys.readouterr().err == "error: stopped; run the same command again to continue\n"


# A venv that says when it works, and then works until it is killed.
SLOW = """
import subprocess, sys
try:
    pip = "import time; print('works', flush=True); time.sleep(60)"
    subprocess.call([sys.executable, "-c", pip])
finally:
    sys.exit("a traceback")
"""


def test_ctrl_c_while_the_environment_is_made_is_one_sentence(
    project: Project, tmp_path: Path
) -> None:
    """A terminal sends it to the whole process group, which venv and its pip must not be in."""
    (tmp_path / "venv.py").write_text(SLOW)
    script = [sys.executable, str(project.folder / "build" / "setup_environment.py")]
    child = subprocess.Popen(
        [*script, "--venv", str(tmp_path / "new")],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        start_new_session=True,
    )
    assert child.stdout is not None
    assert child.stdout.readline() == "works\n"
    os.killpg(child.pid, signal.SIGINT)
    said = child.communicate()  # ends only when every process that has the pipes has ended
    assert said == ("", "error: stopped; run the same command again to continue\n")
    assert child.returncode == 130


def test_an_environment_of_another_python_is_refused_if_python_is_named(
    project: Project, tmp_path: Path
) -> None:
    command = tmp_path / "bin" / "python"
    command.parent.mkdir()
    command.write_text("#!/bin/sh\necho 3.9\n")
    command.chmod(0o755)
    done = project.install("--venv", str(tmp_path), "--this-python")
    here = f"{sys.version_info.major}.{sys.version_info.minor}"
    assert (done.returncode, done.stderr) == (
        1,
        f"error: {tmp_path} has Python 3.9, and PYTHON names {here} ({sys.executable}); "
        "remove that folder ('make clean-venv') or leave out PYTHON\n",
    )
    assert project.install("--this-python").returncode == 0


def test_make_passes_on_that_python_is_named() -> None:
    def commands(*arguments: str, **more: str) -> str:
        environment = {**os.environ, **more}
        for name in ("MAKEFLAGS", "MFLAGS", "PYTHON") if not more else ():
            environment.pop(name, None)
        command = ["make", "--dry-run", "install", *arguments]
        return subprocess.run(
            command, capture_output=True, text=True, cwd=ROOT, env=environment, check=True
        ).stdout

    assert "--this-python" not in commands()
    assert "--this-python" in commands("PYTHON=python3")
    assert "--this-python" in commands(PYTHON="python3")


@pytest.mark.parametrize("name", ["two words", "Müller"])
def test_a_path_that_triton_cannot_use_is_refused_first(
    project: Project, tmp_path: Path, name: str
) -> None:
    """Only for the server: the load test and the client run anywhere."""
    place = tmp_path / name
    shutil.copytree(project.folder, place, ignore=shutil.ignore_patterns(".venv"))
    moved = Project(place, project.wheels)
    done = moved.install()
    assert done.returncode == 1
    assert done.stderr.startswith(f"error: {place} has ")
    assert not (place / ".venv").exists()
    moved.lock("loadtest", "small")
    done = moved.install("--extras", "loadtest")
    assert done.returncode == 0, done.stderr


# What pip does and where to, and a time that uv would not take.
ORDERS = {
    "user": "true",
    "target": "else",
    "prefix": "else",
    "root": "else",
    "dry-run": "true",
    "constraint": "none.txt",
    "require-hashes": "true",
    "quiet": "3",
    "timeout": "2.5",
}


@with_uv
@pytest.mark.parametrize("by", ["file", "environment"])
def test_the_machine_decides_only_where_pip_looks(
    project: Project, tmp_path: Path, by: str
) -> None:
    """And neither what pip or uv installs, nor where to."""
    lines = [f"{name} = {value}\n" for name, value in ORDERS.items()]
    (tmp_path / "pip.conf").write_text(f"[global]\n{''.join(lines)}")
    more = {"PIP_CONFIG_FILE": str(tmp_path / "pip.conf"), "UV_REQUIRE_HASHES": "1"}
    if by == "environment":
        more = {f"PIP_{name.upper().replace('-', '_')}": ORDERS[name] for name in ORDERS}
    start_over(project)
    (project.folder / ".venv" / "installing").touch()  # uv is installed too
    done = project.install(**more)
    assert (done.returncode, done.stderr) == (0, "")
    assert "pip" not in done.stdout
    assert project.module().exists()


@with_uv
def test_a_moved_checkout_is_installed_again(project: Project, tmp_path: Path) -> None:
    """Its packages name their old place: the project's own path, and each script's Python."""
    assert project.install().returncode == 0
    place = tmp_path / "moved#1[here]%20"
    shutil.copytree(project.folder, place, symlinks=True)
    moved = Project(place, project.wheels)
    project.uv_calls()
    assert moved.install().returncode == 0
    packages, editable = project.uv_calls()  # the copy's uv notes them there
    assert "--reinstall" in packages
    assert editable.endswith("--editable .")
    (link,) = moved.module().parent.glob("tried-1.dist-info/direct_url.json")
    assert unquote(json.loads(link.read_text())["url"]) == f"file://{moved.folder}"
    assert moved.install().stdout == ""


def test_another_wheel_than_the_locked_one_is_refused(project: Project) -> None:
    start_over(project)
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


def test_uvs_own_variables_take_precedence() -> None:
    pip = {"index-url": "https://pip.example/simple", "extra-index-url": "https://more.example"}
    pip |= {"timeout": "7"}
    given = {"UV_INDEX_URL": "https://uv.example/simple", "PATH": "/bin", "UV_HTTP_TIMEOUT": "9"}
    assert uv_settings(pip, given) == ([], given)
    assert uv_settings({"no-index": "true"}, {}) == (["--no-index"], {})
    assert uv_settings({"no-index": "0"}, {}) == ([], {})
