"""The progress of a study, for people: a bar on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import time
from types import TracebackType
from typing import Any, Self

from rich.console import Console
from rich.live import Live
from rich.text import Text

LINE_EVERY_S = 15.0
OVER = ("finished", "pruned", "failed")


class ProgressDisplay:
    """Listener of a study that shows what it hears.

    Args:
        console: Where to; standard error, so that results alone are on standard output.
        planned: Trials in all, baselines included.
    """

    def __init__(self, console: Console, *, planned: int) -> None:
        self._console = console
        self._planned = planned
        self._started = time.monotonic()
        self._first_trial: float | None = None
        self._last_line = -LINE_EVERY_S
        self._live = Live(console=console, refresh_per_second=2) if console.is_terminal else None

    def __enter__(self) -> Self:
        self._console.print("starting Ray (half a minute or so on two cores)", highlight=False)
        if self._live:
            self._live.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._live:
            self._live.stop()

    def __call__(self, news: dict[str, Any]) -> None:
        """Show a snapshot of the study."""
        if "plan" in news:
            self._console.print(f"plan: {news['plan']}", highlight=False)
        if "trials" not in news:
            return
        line = self.line(news)
        if self._live:
            self._live.update(Text(line))
        elif time.monotonic() - self._last_line >= LINE_EVERY_S:
            self._last_line = time.monotonic()
            self._console.print(line, highlight=False, soft_wrap=True)

    def line(self, news: dict[str, Any]) -> str:
        """One line for a snapshot: trials done, pruned, failed; best so far; time left."""
        counts = {name: news["trials"].get(name, 0) for name in OVER}
        parts = [
            f"{time.monotonic() - self._started:4.0f} s",
            f"{sum(counts.values())}/{self._planned} trials",
            ", ".join(f"{count} {name}" for name, count in counts.items() if count),
        ]
        if news["best"]:
            parts.append(f"best {news['best']['score']:.3f} ({news['best']['name']})")
        if news["stage"] and sum(counts.values()) < self._planned:
            stage, done, total = news["stage"]
            parts.append(f"{stage} {done}/{total}")
        left = self._seconds_left(sum(counts.values()))
        if left is not None:
            parts.append(f"about {left:.0f} s left")
        return " · ".join(part for part in parts if part)

    def _seconds_left(self, over: int) -> float | None:
        """By the pace since the second trial was over: the first one starts everything."""
        if over < 2:
            return None
        if self._first_trial is None:
            self._first_trial = time.monotonic()
            self._first_over = over
        done = over - self._first_over
        if not done:
            return None
        return (time.monotonic() - self._first_trial) / done * (self._planned - over)
