"""The READMEs name only what exists, and the code keeps the layout that they describe."""

from __future__ import annotations

import ast
import importlib.util
import os
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from tests.support.paths import ROOT

PRODUCT = ("build", "client", "loadtest", "model_repository")
DOCUMENTED = (*PRODUCT, "tests", "tests/benchmarks", "build/demo")
WRITTEN_BY_THE_BUILD = re.compile(r"(build/out|model_repository/\w+/1/engine)(/|$)")


def files(pattern: str, *folders: str) -> list[Path]:
    """The project's own files, relative to the checkout."""
    found = (path.relative_to(ROOT) for top in folders for path in (ROOT / top).rglob(pattern))
    return sorted(path for path in found if not WRITTEN_BY_THE_BUILD.match(path.as_posix()))


MODULES = [path for path in files("*.py", *PRODUCT) if path.name != "__init__.py"]
TEXTS = [Path("README.md"), *files("*.md", *PRODUCT, "tests")]
each_text = pytest.mark.parametrize("text", TEXTS, ids=str)


def code(text: Path) -> list[str]:
    """Every line of code in a text: in its code blocks, and in backticks."""
    content = (ROOT / text).read_text(encoding="utf-8")
    block = re.compile(r"^```\w*\n(.*?)^```$", re.MULTILINE | re.DOTALL)
    lines = [line for lines in block.findall(content) for line in lines.splitlines()]
    return [*lines, *re.findall(r"`([^`]+)`", block.sub("", content))]


@pytest.mark.parametrize("folder", DOCUMENTED)
def test_folder_has_a_readme(folder: str) -> None:
    assert (ROOT / folder / "README.md").is_file()


@each_text
def test_links_lead_somewhere(text: Path) -> None:
    content = (ROOT / text).read_text(encoding="utf-8")
    targets = [target.partition("#")[0] for target in re.findall(r"\]\(([^)\s]+)\)", content)]
    local = [target for target in targets if target and "://" not in target]
    assert [target for target in local if not (ROOT / text.parent / target).exists()] == []


@each_text
def test_named_files_exist(text: Path) -> None:
    """Paths may be relative to the text or the checkout, or the end of a Python file's path."""
    words = [word.strip("\"',;:()") for line in code(text) for word in line.split()]
    assert [word for word in words if is_path(word) and not exists(word, text.parent)] == []


def is_path(word: str) -> bool:
    """Whether a word of code names a committed file or folder."""
    if not re.fullmatch(r"[a-z][\w./<>*-]*", word) or WRITTEN_BY_THE_BUILD.match(word):
        return False
    inside = word.partition("/")[0] in (*PRODUCT, "tests") and "/" in word
    return inside or word.endswith((".py", ".md", ".toml")) or bool(re.search(r"\w/$", word))


def exists(word: str, folder: Path) -> bool:
    pattern = re.sub(r"<\w+>", "*", word)
    if any(list((ROOT / base).glob(pattern)) for base in (folder, Path())):
        return True
    if word.endswith(".py"):
        return any(f"/{path}".endswith(f"/{word}") for path in PYTHON_FILES)
    return word.endswith("/") and any(f"/{word}" in f"/{path}" for path in PYTHON_FILES)


PYTHON_FILES = [path.as_posix() for path in files("*.py", *PRODUCT, "tests")]


@each_text
def test_named_make_targets_exist(text: Path) -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"^([a-z-]+):", makefile, re.MULTILINE))
    commands = [
        found for line in code(text) for found in re.findall(r"^make((?: [a-z-]+\b)+)", line)
    ]
    assert {name for command in commands for name in command.split()} <= targets


@each_text
def test_named_modules_exist(text: Path) -> None:
    names = {name for line in code(text) for name in re.findall(r"python3? -m ([\w.]+)", line)}
    assert [name for name in names if importlib.util.find_spec(name) is None] == []


def test_the_packages_page_has_no_link_into_the_checkout() -> None:
    """A package index shows the long description alone."""
    pyproject = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    (page,) = re.findall(r'^readme = "(.+)"', pyproject, re.MULTILINE)
    links = re.findall(r"\]\(([^)\s]+)\)", (ROOT / page).read_text(encoding="utf-8"))
    assert [link for link in links if not link.startswith(("https://", "#"))] == []


def test_the_root_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 150


def test_no_product_folder_has_more_than_15_modules() -> None:
    counts = Counter(str(path.parent) for path in MODULES)
    assert {folder: count for folder, count in counts.items() if count > 15} == {}


def test_functions_are_at_most_40_lines() -> None:
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef)
    longer = [
        f"{path}:{node.lineno} {node.name}"
        for path in MODULES
        for node in ast.walk(ast.parse((ROOT / path).read_text(encoding="utf-8")))
        if isinstance(node, kinds) and (node.end_lineno or 0) - node.lineno >= 40
    ]
    assert longer == []


def test_one_module_changes_the_import_path() -> None:
    """Except the load test's entry scripts, which Locust's loader starts."""
    statement = re.compile(r"sys\.path\s*(\[.*\]\s*=|\+=|=|\.(append|extend|insert)\()")
    changing = [path for path in MODULES if statement.search((ROOT / path).read_text("utf-8"))]
    entry = [path for path in changing if path.parent == Path("loadtest")]
    assert [path for path in changing if path not in entry] == [Path("build/host/room_paths.py")]


# Folders on the import path, and the libraries that most of their modules import.
ROOTS = {
    "build": "numpy tritonclient.grpc tokenizers openvino huggingface_hub",
    "client": "tritonclient.grpc",
    "loadtest": "numpy locust tritonclient.grpc",
    "model_repository/preprocessing/1": "numpy jinja2 tokenizers",
    "model_repository/tensorrt_llm/1": "numpy openvino",
    "model_repository/postprocessing/1": "numpy",
}
# Each module in a process of its own, forked after the libraries are loaded: they cost most.
IMPORTER = """
import importlib, os, sys
sys.modules["openvino_telemetry"] = None  # it imports on a thread, whose locks a fork would keep
for library in sys.argv[1].split():
    importlib.import_module(library)
for name in sys.argv[2:]:
    pid = os.fork()
    if not pid:
        try:
            importlib.import_module(name)
        except ModuleNotFoundError as error:
            if error.name not in ("torch", "modelopt", "triton_python_backend_utils"):
                print(f"{name}: {error}", flush=True)
        except BaseException as error:
            print(f"{name}: {error!r}", flush=True)
        os._exit(0)
    os.waitpid(pid, 0)
"""


@pytest.mark.parametrize("folder", ROOTS)
def test_each_module_can_be_imported_alone(folder: str, tmp_path: Path) -> None:
    modules = [path.relative_to(folder) for path in MODULES if path.is_relative_to(folder)]
    names = [".".join(path.with_suffix("").parts) for path in modules]
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", IMPORTER, ROOTS[folder], *names],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": f"{ROOT / folder}{os.pathsep}{ROOT / 'client'}"},
        stdout=subprocess.PIPE,
        text=True,
    )
    assert (done.returncode, done.stdout) == (0, "")
