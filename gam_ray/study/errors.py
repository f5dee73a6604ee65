"""Errors of studies, and which errors are the storage's."""

from __future__ import annotations

import errno

STORAGE_FAILED = (
    "the study's storage cannot be written ({error}); see that it has room and is writable"
)
ENDED_IS_KEPT = "what ended is kept: run the study again to go on"
_OF_STORAGE = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO, errno.ESTALE}


class StudyError(RuntimeError):
    """A study could not go on; the message says why and what is left to do."""


class StudyStoppedError(StudyError):
    """A study stopped in order before its end, and can be resumed; the message says why."""


def storage_error(error: BaseException) -> OSError | None:
    """What says that a disk is full or cannot be written, here or in an actor: no trial's fault."""
    origin = getattr(error, "cause", None) or error  # what an actor raised comes wrapped
    return origin if isinstance(origin, OSError) and origin.errno in _OF_STORAGE else None
