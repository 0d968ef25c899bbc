"""The chat page as the gateway serves it; `make test-page` uses it in a browser."""

from __future__ import annotations

import base64
import hashlib
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from tests.support.gateway_calls import Gateway, get
from tests.support.paths import ROOT

PAGE = ROOT / "client" / "llama_fp4" / "gateway" / "chat_page.html"


def test_the_policy_names_the_pages_own_script_and_style(gateway: Gateway) -> None:
    answer = get(gateway, "/")
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    assert answer.content == PAGE.read_bytes()
    policy = dict(
        part.split(" ", 1) for part in answer.headers["content-security-policy"].split("; ")
    )
    for tag, directive in (("script", "script-src"), ("style", "style-src")):
        (inside,) = re.findall(f"<{tag}>(.*?)</{tag}>", answer.text, re.DOTALL)
        found = base64.b64encode(hashlib.sha256(inside.encode()).digest()).decode()
        assert policy[directive] == f"'sha256-{found}'"
    assert policy["connect-src"] == "'self'"
    for closed in ("default-src", "base-uri", "form-action", "frame-ancestors"):
        assert policy[closed] == "'none'"
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["referrer-policy"] == "no-referrer"


def test_the_page_makes_no_markup_of_texts() -> None:
    """Nor does it name another origin, but for what links and the icon's namespace need."""
    page = PAGE.read_text(encoding="utf-8")
    assert not re.search(
        r"innerHTML|outerHTML|insertAdjacent|document\.write|eval\(|Function\(", page
    )
    assert not re.search(r"<(script|link|img|iframe)[^>]*\s(src|href)=\"(?!data:)", page)
    assert set(re.findall(r"https?://[\w.-]+", page)) == {"http://www.w3.org"}


def test_the_package_contains_the_page(tmp_path: Path) -> None:
    pytest.importorskip("hatchling")  # not in an environment that was installed without the locks
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    assert "llama_fp4/gateway/chat_page.html" in zipfile.ZipFile(wheel).namelist()
