"""The progress of a study, for people: a bar on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Self

from rich.console import Console
from rich.live import Live
from rich.text import Text

from gam_ray.config.secrets import masked

LINE_EVERY_S = 15.0
OVER = ("finished", "pruned", "failed")


class StudyLog(logging.FileHandler):
    """The log of a study in its folder, opened once the study has begun: the folder is its own.

    What cannot be written is left out: a log must not end a study.
    """

    def __init__(self, file: Path) -> None:
        super().__init__(file, encoding="utf-8", delay=True)
        self.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
        self._began = False

    def begin(self) -> None:
        """Write from now on."""
        self._began = True

    def emit(self, record: logging.LogRecord) -> None:
        """Write a record, if the study has begun and its folder takes it."""
        if self._began:
            with suppress(OSError):
                super().emit(record)

    def format(self, record: logging.LogRecord) -> str:
        """A record as one line, without passwords."""
        return masked(super().format(record))

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - logging's name
        """Leave a record out that the disk does not take."""

    def close(self) -> None:
        """Close the file; what the disk does not take any more is left out as well."""
        with suppress(OSError):
            super().close()

    def line(self, level: int, text: str) -> None:
        """Write a line of the study's own."""
        self.handle(logging.LogRecord("gam_ray", level, __file__, 0, text, None, None))


@contextmanager
def study_log(file: Path) -> Iterator[StudyLog]:
    """Keep a study's log in `file` as long as the study runs here, its error included."""
    log, logger = StudyLog(file), logging.getLogger("gam_ray")
    logger.addHandler(log)
    try:
        yield log
    except BaseException as error:
        log.line(logging.ERROR, f"{type(error).__name__}: {error}")
        raise
    finally:
        logger.removeHandler(log)
        log.close()


class ProgressDisplay:
    """Listener of a study that shows what it hears.

    Args:
        console: Where to; standard error, so that results alone are on standard output.
        planned: Trials in all, baselines included.
        log: Told the same, a line now and then; its time begins with the study's plan.
    """

    def __init__(self, console: Console, *, planned: int, log: StudyLog | None = None) -> None:
        self._console = console
        self._log = log
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

    def __exit__(self, *_: object) -> None:
        if self._live:
            self._live.stop()

    def __call__(self, news: dict[str, Any]) -> None:
        """Show a snapshot of the study."""
        if "plan" in news:
            self._console.print(f"plan: {news['plan']}", highlight=False, soft_wrap=True)
            self._write(f"plan: {news['plan']}")
        if "trials" not in news:
            return
        line = self.line(news)
        if self._live:
            self._live.update(Text(line))
        if time.monotonic() - self._last_line >= LINE_EVERY_S:
            self._last_line = time.monotonic()
            self._write(line)
            if not self._live:
                self._console.print(line, highlight=False, soft_wrap=True)

    def _write(self, line: str) -> None:
        if self._log:
            self._log.begin()
            self._log.line(logging.INFO, line)

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
        elif not sum(counts.values()) and not news["trials"].get("running"):
            parts.append("starting workers")
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
