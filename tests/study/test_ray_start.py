"""Starting Ray on a machine that is busy, with a Ray that is none."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import ray

from gam_ray.study.errors import StudyError
from gam_ray.study.study import START_ATTEMPTS, _init

LATE = "The current node timed out during startup. This could happen because ..."


@pytest.fixture
def start(monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[str]]:
    """Start a Ray whose first attempts fail with these messages; what was called, in order."""

    def starting(*failures: str) -> list[str]:
        calls: list[str] = []

        def init(**arguments: Any) -> None:
            calls.append(arguments["address"])
            if len(calls) - calls.count("shutdown") <= len(failures):
                raise Exception(failures[calls.count("shutdown")])  # noqa: TRY002

        monkeypatch.setattr(ray, "init", init)
        monkeypatch.setattr(ray, "shutdown", lambda: calls.append("shutdown"))
        _init(address="local")
        return calls

    return starting


def test_a_node_that_is_late_is_tried_again(start: Callable[..., list[str]]) -> None:
    assert start() == ["local"]
    assert start(LATE, LATE) == ["local", "shutdown", "local", "shutdown", "local"]


def test_after_some_attempts_the_error_says_what_to_do(start: Callable[..., list[str]]) -> None:
    with pytest.raises(StudyError, match=r"in 3 attempts of 30 s; it may be too busy"):
        start(*[LATE] * START_ATTEMPTS)


def test_another_error_is_the_users_at_once(start: Callable[..., list[str]]) -> None:
    with pytest.raises(Exception, match="no such address"):
        start("no such address", LATE)
