"""On a GPU nothing may be skipped: a skipped test is a failure."""

from __future__ import annotations

from typing import Any

import pytest

from tests.with_gpu.gpu_settings import Setting, load_setting


@pytest.fixture(scope="session")
def setting() -> Setting:
    return load_setting()


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    reporter: Any = session.config.pluginmanager.get_plugin("terminalreporter")
    left_out = [name for name in ("skipped", "xfailed", "deselected") if reporter.stats.get(name)]
    if left_out and not session.exitstatus:
        reporter.write_line(f"error: {', '.join(left_out)} tests on a GPU", red=True)
        session.exitstatus = pytest.ExitCode.TESTS_FAILED
