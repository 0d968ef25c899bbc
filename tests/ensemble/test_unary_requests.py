"""How the unary model reads the errors that come back to it."""

from __future__ import annotations

import pytest
from unary_requests import error_of


@pytest.mark.parametrize(
    ("message", "code", "said"),
    [
        ("Failed: [UNAVAILABLE] try again later", "UNAVAILABLE", "try again later"),
        ("x [INVALID_ARG] top_p is 2", "INVALID_ARG", "top_p is 2"),
        # Triton's own while it stops, seen under load.
        ("Model ensemble - Error when running inference: Server not ready", "UNAVAILABLE", None),
        ("Server is stopping, scheduler for model has been stopped", "UNAVAILABLE", None),
        ("something else", "INTERNAL", None),
        ("[request id: [NO] CODE] something else", "INTERNAL", None),
    ],
)
def test_an_error_keeps_its_code(message: str, code: str, said: str | None) -> None:
    error = error_of(message)
    assert (error.code, str(error)) == (code, said or message)
