"""Errors of studies."""


class StudyError(RuntimeError):
    """A study could not go on; the message says why and what is left to do."""


class StudyStoppedError(StudyError):
    """A study stopped in order before its end, and can be resumed; the message says why."""
