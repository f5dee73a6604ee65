"""An S3 server for tests: moto's."""

from __future__ import annotations

import importlib.util
import logging
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

SECRET = "a-secret-access-key"  # noqa: S105 - of no server


@contextmanager
def s3_server() -> Iterator[str]:
    """Start one in a thread; yields its address."""
    if importlib.util.find_spec("moto") is None:
        pytest.skip("moto is missing; pip install -e '.[dev]'")
    from moto.server import ThreadedMotoServer

    logging.getLogger("werkzeug").setLevel(logging.WARNING)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    try:
        yield f"http://{host}:{port}"
    finally:
        server.stop()
