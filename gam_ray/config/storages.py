"""Addresses of buckets that hold studies, and where their copies are on this machine."""

from __future__ import annotations

import os
import re
from pathlib import Path

from gam_ray.config.secrets import masked

S3 = "s3://"
CACHE = "GAM_RAY_CACHE"
"""Environment variable: the folder of copies, by default ~/.cache/gam_ray."""

_PART = r"(?!\.{1,2}(?:/|$))[A-Za-z0-9._-]+"
_ADDRESS = re.compile(rf"s3://[a-z0-9][a-z0-9.-]+(?:/{_PART})*/?")


def check_s3(storage: str) -> None:
    """Refuse what is not ``s3://BUCKET/PREFIX``.

    Raises:
        ValueError: Saying so, without what may be a key.
    """
    if not _ADDRESS.fullmatch(storage):
        shown = masked(storage.partition("?")[0])
        raise ValueError(
            "must be a folder or s3://BUCKET/PREFIX, of letters, digits, '.', '_' and '-', but got "
            f"{shown!r}; keys and the server's address come from the environment "
            "(AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_ENDPOINT_URL)"
        )


def working_folder(storage: str, kind: str = "s3") -> Path:
    """Where this machine keeps its copy of what is in a bucket.

    Args:
        storage: ``s3://BUCKET/PREFIX``.
        kind: ``s3`` for the copy of the process that runs a study, ``seen`` for that of commands
            that look at it.

    Raises:
        ValueError: If the address is not right.
    """
    check_s3(storage)
    cache = Path(os.environ.get(CACHE) or "~/.cache/gam_ray").expanduser().absolute()
    return cache / kind / storage.removeprefix(S3).rstrip("/")
