"""Errors of studies."""


class StudyError(RuntimeError):
    """A study could not go on; the message says why and what is left to do."""
