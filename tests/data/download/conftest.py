"""Fixtures that several files here use."""

from __future__ import annotations

import threading

import pytest

from tests.data.download.http_server import Server


@pytest.fixture
def server():
    server = Server()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
