"""Errors of studies, and which errors are the storage's."""

from __future__ import annotations

import errno
import sqlite3

STORAGE_FAILED = (
    "the study's storage cannot be written ({error}); see that it has room and is writable"
)
ENDED_IS_KEPT = "what ended is kept: run the study again to go on"
_OF_STORAGE = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO, errno.ESTALE}
_OF_SQLITE = {
    sqlite3.SQLITE_FULL,
    sqlite3.SQLITE_READONLY,
    sqlite3.SQLITE_CANTOPEN,
    sqlite3.SQLITE_IOERR,
}


class StudyError(RuntimeError):
    """A study could not go on; the message says why and what is left to do."""


class StudyStoppedError(StudyError):
    """A study stopped in order before its end, and can be resumed; the message says why."""


def storage_error(error: BaseException) -> Exception | None:
    """What says that a disk is full or cannot be written, here or in an actor: no trial's fault.

    It may be an error of a file, or of the SQLite file that Optuna keeps its study in.
    """
    seen: BaseException | None = getattr(error, "cause", None) or error  # an actor's comes wrapped
    while seen is not None:
        if isinstance(seen, OSError) and seen.errno in _OF_STORAGE:
            return seen
        if isinstance(seen, sqlite3.Error) and _primary_code(seen) in _OF_SQLITE:
            return seen
        seen = seen.__cause__
    return None


def _primary_code(error: sqlite3.Error) -> int:
    """SQLite's code of an error, without what extends it; 0 where Python raised it by itself."""
    return getattr(error, "sqlite_errorcode", 0) & 0xFF
