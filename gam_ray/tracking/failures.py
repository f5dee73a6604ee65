"""What went wrong, in words that may be shown: without credentials, and with the remedy."""

import errno
import os
import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import unquote

_LENGTH = 600
_MASK = "***"
# Up to the last @ before the path: a password may hold one that nobody escaped.
_URL_CREDENTIALS = re.compile(r"(?<=//)[^/\s'\"?#]*@")
_QUERY_CREDENTIALS = re.compile(r"(?i)\b((?:password|passwd|token|secret|api_?key)=)[^&\s'\"]+")
_PASSWORD = re.compile(r"//[^:/?#]*:(.+)@")
_SECRET_VARIABLES = ("MLFLOW_TRACKING_PASSWORD", "MLFLOW_TRACKING_TOKEN")

_HOSTS = "start the MLflow server with this address among its --allowed-hosts"
_ACCOUNT = (
    "MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or MLFLOW_TRACKING_TOKEN, of the "
    "process that runs the study"
)
_REMEDIES = (
    (
        r"Invalid Host header",
        _HOSTS,
    ),
    (
        r"error code 401\b|UNAUTHENTICATED|\b401 (?:Client Error|Unauthorized)",
        f"the server wants an account: set {_ACCOUNT}",
    ),
    (
        r"error code 403\b|PERMISSION_DENIED|\b403 (?:Client Error|Forbidden)",
        f"{_HOSTS}, or give the account of {_ACCOUNT}, the right to edit the experiment",
    ),
    (
        r"No space left|disk is full|disk I/O error|readonly database|could not extend file",
        "free space on the disk of MLflow's database",
    ),
    (
        r"(?:error code|too many) 429\b|\b429 Client Error",
        "the server limits how often it is asked; nothing has to be done",
    ),
    (  # MLflow's client keeps to itself what else such an answer says
        r"(?:error code|too many) 5\d\d\b|\b5\d\d Server Error",
        "the log of the MLflow server says why; its disk may be full, or its database away",
    ),
    (
        r"Connection refused|Failed to resolve|NameResolutionError|No route to host",
        "see whether the MLflow server runs, and whether tracking.uri is its address",
    ),
)
_STORAGE_ERRORS = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO})


def mask_credentials(text: str, uri: str = "") -> str:
    """Return a text without credentials.

    What stands before the `@` of an address goes, values of `password=`, `token=` and the like
    become `***`, and so do the password of `uri` and those that MLflow takes from the environment,
    wherever they stand.

    Args:
        text: Any text: an address, an error that quotes one.
        uri: An address whose password the text may show outside of an address too.
    """
    for secret in sorted(_secrets(uri), key=len, reverse=True):
        text = text.replace(secret, _MASK)
    return _QUERY_CREDENTIALS.sub(rf"\1{_MASK}", _URL_CREDENTIALS.sub("", text))


def without_credentials(content: Any) -> Any:
    """Return JSON content with `mask_credentials` done on every text in it."""
    if isinstance(content, str):
        return mask_credentials(content, content)
    if isinstance(content, Mapping):
        return {key: without_credentials(value) for key, value in content.items()}
    if isinstance(content, list | tuple):
        return [without_credentials(value) for value in content]
    return content


def explain(error: Exception, uri: str) -> str:
    """Return what went wrong and what helps, in one line without credentials.

    Args:
        error: What MLflow, its database, the network or the study's storage raised.
        uri: The tracking address, whose password must not be shown.
    """
    whole = " ".join(mask_credentials(f"{type(error).__name__}: {error}", uri).split())
    shown = whole if len(whole) <= _LENGTH else f"{whole[:_LENGTH]}…"
    remedy = _remedy(error, whole)
    return f"{shown}; {remedy}" if remedy else shown


def _remedy(error: Exception, text: str) -> str | None:
    if isinstance(error, OSError) and error.errno in _STORAGE_ERRORS:
        return "free space on the storage of the study, and see that it can be written"
    return next((remedy for pattern, remedy in _REMEDIES if re.search(pattern, text)), None)


def _secrets(uri: str) -> set[str]:
    found = _PASSWORD.search(uri)
    secrets = {os.environ.get(name, "") for name in _SECRET_VARIABLES}
    if found:
        secrets |= {found[1], unquote(found[1])}
    return {secret for secret in secrets if len(secret) > 3}  # shorter ones would riddle the text
