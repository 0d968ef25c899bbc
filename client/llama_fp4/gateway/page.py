"""The chat page as it is served: its bytes, and headers that let it do nothing else."""

from __future__ import annotations

import base64
import functools
import hashlib
import re
from pathlib import Path

PAGE = Path(__file__).with_name("chat_page.html")
# `data:` is the page's icon. Trusted Types 'none': nothing can turn a text into markup or script.
POLICY = (
    "default-src 'none'",
    "script-src {script}",
    "style-src {style}",
    "img-src data:",
    "connect-src 'self'",
    "base-uri 'none'",
    "form-action 'none'",
    "frame-ancestors 'none'",
    "require-trusted-types-for 'script'",
    "trusted-types 'none'",
)


@functools.cache
def chat_page() -> tuple[bytes, dict[str, str]]:
    """The page and its headers. Its one script and one style sheet run by their hashes alone."""
    page = PAGE.read_bytes()
    hashes = {tag: _hash_of(tag, page) for tag in ("script", "style")}
    return page, {
        "content-type": "text/html; charset=utf-8",
        "content-security-policy": "; ".join(POLICY).format(**hashes),
        "x-content-type-options": "nosniff",
        "referrer-policy": "no-referrer",
        "cache-control": "no-cache",  # after an update of the package, the new page
    }


def _hash_of(tag: str, page: bytes) -> str:
    (inside,) = re.findall(rb"^<%b>(.*?)</%b>$" % (tag.encode(), tag.encode()), page, re.M | re.S)
    return f"'sha256-{base64.b64encode(hashlib.sha256(inside).digest()).decode()}'"
