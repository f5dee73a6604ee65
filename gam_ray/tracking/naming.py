"""Names and texts in the form that MLflow takes."""

import hashlib
import re

PARAM_LENGTH = 6000
"""The most characters that MLflow keeps of a param's value."""

TAG_LENGTH = 8000
"""The most characters that MLflow keeps of a tag's value."""

_KEY_LENGTH = 250
_FORBIDDEN = re.compile(r"[^\w.\- :/]")


def clean_key(key: str) -> str:
    """Return a key that MLflow takes for a param, a metric or a tag; a good one stays as it is.

    Other characters than letters, digits and `_-. /:` become `_`. MLflow also wants keys that are
    plain relative paths of at most 250 characters: empty and dotted parts go, and a longer key ends
    in a hash of the whole.
    """
    parts = _FORBIDDEN.sub("_", key).split("/")
    clean = "/".join("__" if part == ".." else part for part in parts if part not in ("", "."))
    if len(clean) > _KEY_LENGTH:
        digest = hashlib.sha256(clean.encode()).hexdigest()[:8]
        clean = f"{clean[: _KEY_LENGTH - 9]}-{digest}"
    return clean or "_"


def clean_text(text: str, length: int) -> str:
    """Return a text that every store takes: well-formed, without NUL, not over the length."""
    return text.replace("\0", "").encode("utf-8", "replace").decode()[:length]
