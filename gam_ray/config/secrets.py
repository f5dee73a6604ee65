"""Keep passwords and tokens out of what is printed, logged or sent."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from typing import Any

MASK = "***"

# scheme://user:password@host and scheme://token@host; greedy, for passwords with an @ in them.
_IN_URL = re.compile(r"(?<=://)[^\s/\"'?#]*(?=@)")
_IN_QUERY = re.compile(r"(?i)([?&](?:password|passwd|token|secret|signature|sig|key)=)[^&\s\"']+")
_IN_ENVIRONMENT = (
    "RAY_AUTH_TOKEN",
    "MLFLOW_TRACKING_PASSWORD",
    "MLFLOW_TRACKING_TOKEN",
    "AWS_SECRET_ACCESS_KEY",
    "AWS_SESSION_TOKEN",
    "PGPASSWORD",
)
_SHORTEST = 8  # characters: a shorter value may stand in a text by chance


def masked(text: str) -> str:
    """`text` with credentials in addresses, and secrets of the environment, as ``***``."""
    text = _IN_URL.sub(MASK, text)
    text = _IN_QUERY.sub(rf"\1{MASK}", text)
    for name in _IN_ENVIRONMENT:
        value = os.environ.get(name, "")
        if len(value) >= _SHORTEST:
            text = text.replace(value, MASK)
    return text


def has_secret(text: str) -> bool:
    """Whether an address holds a password or a token; a user's name alone is none."""
    user = _IN_URL.search(text)
    return bool((user and ":" in user.group()) or _IN_QUERY.search(text))


def secret_paths(data: Any, path: str = "") -> Iterator[str]:
    """Dotted paths of the addresses in plain data that hold a secret."""
    if isinstance(data, dict):
        for key, value in data.items():
            yield from secret_paths(value, f"{path}.{key}" if path else str(key))
    elif isinstance(data, list):
        for index, value in enumerate(data):
            yield from secret_paths(value, f"{path}.{index}")
    elif isinstance(data, str) and has_secret(data):
        yield path
