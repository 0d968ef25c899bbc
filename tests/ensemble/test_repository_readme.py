"""The model repository's README: a request's way by file."""

from __future__ import annotations

import re

from tests.support.paths import ROOT

REPOSITORY = ROOT / "model_repository"
MOST_FILES = 26


def test_a_requests_way_names_files_that_exist() -> None:
    text = (REPOSITORY / "README.md").read_text(encoding="utf-8")
    (way,) = re.findall(r"^## A request's way\n(.*?)^## ", text, re.MULTILINE | re.DOTALL)
    folder, files = "", []
    for line in way.splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if line.startswith("|") and "`" in line:
            folder = cells[0].strip("`") or folder
            base = ROOT if folder.startswith("client/") else REPOSITORY
            files += [base / folder / name for name in re.findall(r"`([^`]+)`", cells[1])]
    assert len(files) == len(set(files))
    assert sum(path.suffix == ".py" for path in files) == MOST_FILES
    assert str(MOST_FILES) in way
    assert [path for path in files if not path.is_file()] == []
