"""Who watches a study while it runs: its heart beat, its budget, and whoever asks it to stop."""

from __future__ import annotations

import logging
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from gam_ray.config import BudgetConfig
from gam_ray.study.store import StudyStore

logger = logging.getLogger(__name__)

LOOK_EVERY_S = 1.0
BEAT_EVERY_S = 10.0
# A study that runs and has not written its beat for so long is gone.
BEAT_TIMEOUT_S = 60.0
HOUR_S = 3600.0


class Watch:
    """A thread that writes the study's beat and finds out why it has to stop.

    Args:
        store: The study's.
        budget: What it may spend, in all its lives together.
        state: What `state.json` holds; the beat and what is spent are added to it.
        gpus: How many GPUs it holds now.
        on_stop: Called once, in this thread, with the reason.
    """

    def __init__(
        self,
        store: StudyStore,
        budget: BudgetConfig,
        state: dict[str, Any],
        *,
        gpus: Callable[[], float],
        on_stop: Callable[[str], None],
    ) -> None:
        self._store = store
        self._budget = budget
        self._state = state
        self._gpus = gpus
        self._on_stop = on_stop
        self._spent = {"hours": 0.0, "gpu_hours": 0.0, **state.get("spent", {})}
        self._done = threading.Event()
        self._signal: str | None = None
        self._thread = threading.Thread(target=self._look, name="watch", daemon=True)
        self.reason: str | None = None
        self.is_budget_spent = False

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Watch as long as the block runs; SIGINT and SIGTERM ask for a stop, a second one insists.

        Signals are left alone where this is not the main thread.
        """
        self._thread.start()
        is_main = threading.current_thread() is threading.main_thread()
        before = (
            {each: signal.signal(each, self._heed) for each in (signal.SIGINT, signal.SIGTERM)}
            if is_main
            else {}
        )
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
            self._done.set()
            self._thread.join()

    def spent(self) -> dict[str, float]:
        """Hours, and hours of GPUs, in all lives of the study."""
        return dict(self._spent)

    def _heed(self, number: int, _frame: Any) -> None:
        if self._signal:
            raise KeyboardInterrupt
        self._signal = signal.Signals(number).name

    def _look(self) -> None:
        last, last_beat = time.monotonic(), 0.0
        while not self._done.wait(LOOK_EVERY_S):
            now = time.monotonic()
            self._spent["hours"] += (now - last) / HOUR_S
            self._spent["gpu_hours"] += self._gpus() * (now - last) / HOUR_S
            last = now
            try:
                if now - last_beat >= BEAT_EVERY_S:
                    last_beat = now
                    self._beat()
                self._stop_if_asked()
            except OSError as error:  # a storage that is away for a while
                logger.warning("the study's folder does not answer: %s", error)

    def _beat(self) -> None:
        self._store.write("state", {**self._state, "beat": time.time(), "spent": self.spent()})

    def _stop_if_asked(self) -> None:
        if self.reason is None and (reason := self._why_stop()):
            self.reason = reason
            self._on_stop(reason)

    def _why_stop(self) -> str | None:
        if self._signal:
            return f"{self._signal} was received"
        if self._store.stop_requested():
            who = self._store.read("stop") or {}
            return who.get("reason") or f"asked by process {who.get('pid')} on {who.get('host')}"
        for name, spent in self._spent.items():
            limit = getattr(self._budget, name)
            if limit is not None and spent >= limit:
                self.is_budget_spent = True
                return f"budget.{name} of {limit:g} is spent"
        return None
