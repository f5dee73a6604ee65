"""How a study's tracking is, told by files alone to any machine that sees its storage."""

import json
import logging
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gam_ray.tracking.files import JsonLines, replace_json
from gam_ray.tracking.progress import Progress
from gam_ray.tracking.queue import QUEUE

_log = logging.getLogger(__name__)
_FILE = "sink.json"
_WRITE_EVERY_S = 1.0


@dataclass(frozen=True)
class TrackingStatus:
    """How far tracking is, as its files say.

    Attributes:
        logged: Records that MLflow has.
        waiting: Records that it does not have yet.
        rejected: Records that MLflow refused, set aside in `rejected.jsonl`.
        last_rejection: Why the latest of them was refused; None if there is none.
        failing: Whether the last attempt failed; it is repeated as long as a study runs.
        last_error: The latest failure and its remedy, kept after things went on; None if there was
            none.
        last_error_time: When, in seconds since the epoch.
        uri: Where the records go, without credentials; None before a sink started.
        experiment_id: MLflow's id of the study's experiment; None before it was reached.
    """

    logged: int = 0
    waiting: int = 0
    rejected: int = 0
    last_rejection: str | None = None
    failing: bool = False
    last_error: str | None = None
    last_error_time: float | None = None
    uri: str | None = None
    experiment_id: str | None = None


class Health:
    """Keeps `sink.json`: where a sink sends to, and what failed last.

    It is written at most once a second; `write` after that time catches up. A storage that refuses
    it must not hold up the records, so such a failure is only logged, for debugging.

    Args:
        folder: The queue's folder.
        uri: Where the records go, without credentials.
    """

    def __init__(self, folder: Path, uri: str) -> None:
        self._file = folder / _FILE
        before = _load(self._file)
        self._content = {
            "uri": uri,
            "failing": False,
            "last_error": before.get("last_error"),
            "last_error_time": before.get("last_error_time"),
            "experiment_id": before.get("experiment_id"),
        }
        self._is_written = False
        self._due = 0.0

    def failed(self, error: str) -> None:
        """Note a failure, as it may be shown."""
        self._note(failing=True, last_error=error, last_error_time=time.time())

    def recovered(self) -> None:
        """Note that things go on."""
        self._note(failing=False)

    def reached(self, experiment_id: str) -> None:
        """Note which experiment takes the records."""
        if experiment_id != self._content["experiment_id"]:
            self._note(experiment_id=experiment_id)

    def write(self, *, now: bool = False) -> None:
        """Write what is not written yet, unless the last time was less than a second ago.

        Args:
            now: Whether to write it whatever the time.
        """
        if self._is_written or not (now or time.monotonic() >= self._due):
            return
        try:
            replace_json(self._file, self._content)
        except OSError:
            _log.debug("%s cannot be written", self._file, exc_info=True)
        else:
            self._is_written = True
        self._due = time.monotonic() + _WRITE_EVERY_S

    def _note(self, **news: Any) -> None:
        self._content |= news
        self._is_written = False
        self.write()


def read_status(folder: Path) -> TrackingStatus:
    """Tell how a study's tracking is, from its files, without MLflow; nothing is changed.

    Args:
        folder: The queue's folder; one that is not there yet has nothing to tell.

    Raises:
        OSError: If a file cannot be read.
    """
    lines = JsonLines(folder / QUEUE)
    progress = Progress(folder, lines.size())
    position, noted = progress.position, _load(folder / _FILE)
    return TrackingStatus(
        logged=progress.logged(),
        waiting=lines.count(position.offset) + len(position.artifacts),
        rejected=len(progress.rejected),
        last_rejection=progress.last_rejection,
        failing=bool(noted.get("failing")),
        last_error=noted.get("last_error"),
        last_error_time=noted.get("last_error_time"),
        uri=noted.get("uri"),
        experiment_id=noted.get("experiment_id"),
    )


def _load(file: Path) -> dict[str, Any]:
    if not file.exists():
        return {}
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except ValueError:
        content = None
    if not isinstance(content, dict):
        _log.warning("%s is not what a sink wrote; what failed before is not known", file)
        return {}
    return content
