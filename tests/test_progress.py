"""What a study's progress looks like on a line."""

import logging
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from gam_ray.progress import ProgressDisplay, study_log


def news(stage: tuple[str, int, int] | None = None, **trials: int) -> dict[str, Any]:
    return {"trials": trials, "best": None, "stage": stage}


@pytest.mark.parametrize(
    ("heard", "told"),
    [
        (news(), "0/14 trials · starting workers"),
        (news(planned=2), "0/14 trials · starting workers"),
        (news(running=1), "0/14 trials"),
        (news(("adapting", 50, 240), running=1), "0/14 trials · adapting 50/240"),
        (news(finished=3, pruned=1, running=2), "4/14 trials · 3 finished, 1 pruned"),
        (news(("adapting", 9, 9), finished=13, failed=1), "14/14 trials · 13 finished, 1 failed"),
    ],
)
def test_a_line_says_what_is_done_and_what_happens(heard: dict[str, Any], told: str) -> None:
    display = ProgressDisplay(Console(file=StringIO()), planned=14)
    assert display.line(heard).partition(" s · ")[2].partition(" · about")[0] == told


def test_the_best_so_far_is_named() -> None:
    heard = news(finished=1, running=1) | {"best": {"name": "02 gan fc4", "score": 0.7034}}
    line = ProgressDisplay(Console(file=StringIO()), planned=14).line(heard)
    assert line.endswith("1 finished · best 0.703 (02 gan fc4)")


def test_without_a_terminal_a_line_comes_now_and_then() -> None:
    out = StringIO()
    display = ProgressDisplay(Console(file=out, width=200), planned=14)
    for _ in range(5):
        display(news(("adapting", 1, 9), running=1))
    assert out.getvalue().count("adapting 1/9") == 1


def fail_with_a_log(file: Path) -> None:
    with study_log(file) as log:
        log.begin()
        log.line(logging.INFO, "x" * 100_000)
        raise RuntimeError("the study's own")


def test_a_log_that_cannot_be_written_does_not_hide_why_a_study_ended() -> None:
    with pytest.raises(RuntimeError, match="the study's own"):
        fail_with_a_log(Path("/dev/full"))
