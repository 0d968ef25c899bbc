"""Gateways before the servers that all test files share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from serving.child_server import ServerProcess

from tests.support.gateway_calls import Gateway, gateway_of


@pytest.fixture(scope="session")
def gateway(
    replay_server: ServerProcess, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Gateway]:
    """Before the replay engine, which answers with the prompt's own tokens."""
    with gateway_of(replay_server, tmp_path_factory.mktemp("gateway")) as gateway:
        yield gateway


@pytest.fixture(scope="session")
def demo_gateway(
    demo_server: ServerProcess, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Gateway]:
    """Before the demo checkpoint on OpenVINO."""
    with gateway_of(demo_server, tmp_path_factory.mktemp("demo-gateway")) as gateway:
        yield gateway
