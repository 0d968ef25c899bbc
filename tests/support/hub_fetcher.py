"""Runs fetch_checkpoint.py against the hub of `hub_server`, and makes that hub's repositories. The
fixtures are in `hub_fixtures`."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

from checkpoints.nvfp4 import open_checkpoint
from checkpoints.safetensors_file import header_bytes
from make_checkpoint import TensorPlan, into_shards

from tests.support.hub_server import Fault, LocalHub
from tests.support.paths import BUILD
from tests.support.processes import eventually

TOKEN = "hf_thistokenisnevertobeseen"
NAMED_TEMPLATE = "additional_chat_templates/tool_use.jinja"
COMMIT, OLDER = "a1" * 20, "b2" * 20
FIRST, SECOND = (f"model-0000{n}-of-00002.safetensors" for n in (1, 2))  # of `large_hub`
# A prelude that gives the disk this many free bytes.
FULL = (
    "checkpoints.fetch.shutil.disk_usage = lambda _: __import__('types').SimpleNamespace(free={})"
)
ERROR = re.compile(r"error: [^\n]+\n")
DRIVER = """
import sys
sys.path.insert(0, {build!r})
import fetch_checkpoint, checkpoints.fetch, host.console
{prelude}
host.console.run_script(fetch_checkpoint.main)
"""


def in_shards(checkpoint: Path, folder: Path, shard_bytes: int) -> Path:
    """A copy of a one-file checkpoint, cut into shards, with the other files of a repository."""
    shutil.copytree(checkpoint, folder)
    (folder / "model.safetensors").unlink()
    tensors = open_checkpoint(checkpoint).tensors
    shards = into_shards(
        [TensorPlan(t.name, t.dtype, t.shape) for t in tensors.values()], shard_bytes
    )
    weight_map: dict[str, str] = {}
    for number, plans in enumerate(shards, 1):
        name = f"model-{number:05}-of-{len(shards):05}.safetensors"
        content = b"".join(tensors[plan.name].data.tobytes() for plan in plans)
        header = header_bytes((plan.name, plan.dtype, plan.shape) for plan in plans)
        (folder / name).write_bytes(header + content)
        weight_map |= {plan.name: name for plan in plans}
    index = {"metadata": {"total_size": 1}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    others = ("LICENSE", "USE_POLICY.md", "README.md", ".gitattributes", "original/params.json")
    for name in (*others, NAMED_TEMPLATE, "additional_chat_templates/notes.txt"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(f"the text of {name}")
    return folder


class Fetcher:
    """Runs fetch_checkpoint.py as a process, with a token and only this hub."""

    def __init__(self, hub: LocalHub, folder: Path) -> None:
        self.output = folder / "checkpoint"
        self.download = folder / "checkpoint.download"
        self.environment = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("HF_", "HUGGING")) and "proxy" not in name.lower()
        }
        self.environment |= {"HF_ENDPOINT": hub.endpoint, "HF_HOME": str(folder / "hf")}
        self.environment |= {"HF_TOKEN": TOKEN, "HF_HUB_DOWNLOAD_TIMEOUT": "5"}

    def start(self, *arguments: str, prelude: str = "") -> subprocess.Popen[str]:
        code = DRIVER.format(build=str(BUILD), prelude=prelude)
        default = () if "--check" in arguments else ("--output", str(self.output))
        return subprocess.Popen(
            [sys.executable, "-c", code, *default, *arguments],
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def __call__(self, *arguments: str, prelude: str = "") -> str:
        """Run it; returns its output. Fails the test unless it succeeds."""
        process = self.start(*arguments, prelude=prelude)
        out, err = process.communicate(timeout=500)
        assert (process.returncode, err) == (0, ""), out + err
        self._check_secrets(out)
        return out

    def refused(self, *arguments: str, prelude: str = "") -> str:
        """Run it; returns its one-sentence error. Fails the test unless it ends with one."""
        process = self.start(*arguments, prelude=prelude)
        out, err = process.communicate(timeout=500)
        assert process.returncode == 1, out + err
        assert ERROR.fullmatch(err), err
        self._check_secrets(out + err)
        return err

    @staticmethod
    def _check_secrets(text: str) -> None:
        assert TOKEN not in text
        assert "Signature" not in text


def stalled(fetch: Fetcher, hub: LocalHub, name: str, prelude: str = "") -> subprocess.Popen[str]:
    """A fetch that was sent the first 15 MB of a file and waits for more."""
    hub.faults[name] = Fault(stall_after=15_000_000)
    process = fetch.start(prelude=prelude)
    eventually(lambda: hub.sent.get(name) == 15_000_000, "the hub has sent 15 MB")
    return process
