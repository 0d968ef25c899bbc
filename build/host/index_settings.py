"""Translates pip's settings for uv, which reads neither pip's files nor PIP_*.

On a machine behind a mirror pip is set up to use it, and uv must use it too. UV_* variables of the
environment take precedence.
"""

from __future__ import annotations

import ast
import math
import os
import subprocess
from pathlib import Path

# pip's setting, uv's variable, and the separator of several values there.
VARIABLES = (
    ("index-url", "UV_DEFAULT_INDEX", " "),
    ("extra-index-url", "UV_INDEX", " "),
    ("find-links", "UV_FIND_LINKS", ","),
    ("trusted-host", "UV_INSECURE_HOST", " "),
    ("default-timeout", "UV_HTTP_TIMEOUT", " "),
    ("timeout", "UV_HTTP_TIMEOUT", " "),
    ("cert", "SSL_CERT_FILE", " "),
    ("client-cert", "SSL_CLIENT_CERT", " "),
    ("proxy", "ALL_PROXY", " "),
)
# By default uv takes a package only from the first index that has it, pip from any index. Taking it
# from any is safe, because its hash is checked.
ANY_INDEX = {"UV_INDEX_STRATEGY": "unsafe-best-match"}
# The machine's settings decide where pip finds packages, not what it installs or where to. (For
# example, NVIDIA's images set PIP_CONSTRAINT.)
NOT_OURS = (
    *("user", "target", "prefix", "root", "python", "dry-run", "editable", "requirement"),
    *("constraint", "require-hashes", "quiet", "verbose", "config-file"),
)
NOT_FOR_UV = ("UV_CONSTRAINT", "UV_OVERRIDE", "UV_REQUIRE_HASHES")
ON = ("1", "true", "yes", "on")


def pip_settings(python: Path) -> dict[str, str]:
    """The settings of this interpreter's pip, from its files and, with precedence, from PIP_*."""
    command = [str(python), "-m", "pip", "config", "list"]
    environment = {name: text for name, text in os.environ.items() if name != "PIP_PYTHON"}
    environment.update({"PIP_QUIET": "0", "PIP_VERBOSE": "0"})
    listed = subprocess.run(
        command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=environment
    )
    found = {}
    for line in listed.stdout.decode(errors="replace").splitlines():
        name, equals, value = line.partition("=")
        section, _, key = name.strip().rpartition(".")
        if equals and section in SECTIONS:
            found[SECTIONS.index(section), key] = str(ast.literal_eval(value))
    return {key: value for (_, key), value in sorted(found.items())}


SECTIONS = ("global", "install", ":env:")  # the later ones take precedence


def pip_environment(settings: dict[str, str]) -> dict[str, str]:
    """An environment in which pip looks for packages by these settings and ignores all others."""
    environment = {name: text for name, text in os.environ.items() if not name.startswith("PIP_")}
    environment["PIP_CONFIG_FILE"] = os.devnull  # no file is read
    for key, value in settings.items():
        if key not in NOT_OURS:
            environment[f"PIP_{key.upper().replace('-', '_')}"] = value
    return environment


def uv_settings(
    settings: dict[str, str], given: dict[str, str] | None = None
) -> tuple[list[str], dict[str, str]]:
    """uv's flags and environment for pip's settings; `given` stands for this process's own."""
    environment = dict(os.environ if given is None else given)
    for name in NOT_FOR_UV:
        environment.pop(name, None)
    named = {name for name in environment if name.startswith(("UV_", "SSL_", "ALL_PROXY"))}
    if named & {"UV_INDEX", "UV_INDEX_URL", "UV_EXTRA_INDEX_URL"}:
        named |= {"UV_DEFAULT_INDEX", "UV_INDEX"}
    for name, variable, between in VARIABLES:
        values = settings.get(name, "").split()
        if values and variable not in named:
            environment[variable] = between.join(values)
            if variable == "UV_HTTP_TIMEOUT":  # whole seconds; pip takes fractions too
                environment[variable] = str(math.ceil(float(values[0])))
    if "UV_INDEX" in environment and "UV_INDEX_STRATEGY" not in named:
        environment.update(ANY_INDEX)
    no_index = settings.get("no-index", "").lower() in ON
    return (["--no-index"] if no_index else []), environment
