"""What a sink remembers on disk: how far it is, what it set aside, and which runs it has."""

import json
import logging
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from gam_ray.tracking.files import JsonLines, replace_json

_log = logging.getLogger(__name__)
_RUNS = "runs.json"


@dataclass(frozen=True)
class Position:
    """How far the queue is logged.

    Attributes:
        offset: The bytes of the queue behind which nothing is logged yet.
        events: How many lines lie before it.
        artifacts: Where the lines begin, in bytes, whose files are not uploaded yet.
    """

    offset: int = 0
    events: int = 0
    artifacts: tuple[int, ...] = ()


class Progress:
    """The durable state of one sink, in the folder of its queue.

    `offset.json` is replaced only after MLflow accepted what lies before it; losing it means to
    send everything again, which changes nothing. `rejected.jsonl` names what was set aside.

    Args:
        folder: The queue's folder.
        queue_size: The bytes in the queue now; an offset behind it belongs to another queue.
    """

    def __init__(self, folder: Path, queue_size: int) -> None:
        self._folder = folder
        self._rejected_lines = JsonLines(folder / "rejected.jsonl")
        self.rejected: set[int] = set()
        self.last_rejection: str | None = None
        for offset, reason in _read_rejections(self._rejected_lines):
            self.rejected.add(offset)
            self.last_rejection = reason
        self.run_ids = _load_run_ids(folder)
        saved = _load_position(folder / "offset.json")
        self.position = saved if saved.offset <= queue_size else Position()

    def advance(self, offset: int, events: int, artifacts: list[int]) -> None:
        """Move on: everything before the offset is logged, but for files that wait.

        Args:
            offset: The new offset in bytes.
            events: How many lines were passed.
            artifacts: Where those lines begin whose files have to be uploaded.

        Raises:
            OSError: If the disk refuses.
        """
        now = self.position
        self._move(
            Position(offset, now.events + events, tuple(sorted({*now.artifacts, *artifacts})))
        )

    def uploaded(self, start: int) -> None:
        """Note that the file of the line which begins there waits no longer.

        Raises:
            OSError: If the disk refuses.
        """
        waiting = tuple(other for other in self.position.artifacts if other != start)
        self._move(replace(self.position, artifacts=waiting))

    def set_aside(self, start: int, line: bytes, reason: str) -> None:
        """Write a line of the queue that MLflow does not take to `rejected.jsonl`, once.

        Args:
            start: Where the line begins in the queue, in bytes.
            line: The line.
            reason: Why MLflow refused it.

        Raises:
            OSError: If the disk refuses.
        """
        if start in self.rejected:
            return
        event = _readable(line)
        self._rejected_lines.append({"offset": start, "reason": reason, "event": event})
        self.rejected.add(start)
        if reason != self.last_rejection:  # a run that is gone refuses all its records alike
            _log.warning(
                "MLflow refuses a record, set aside in rejected.jsonl: %.200s (%s)", event, reason
            )
        self.last_rejection = reason

    def note_runs(self, run_ids: dict[str, str]) -> None:
        """Keep the ids of the runs by trial key.

        Raises:
            OSError: If the disk refuses.
        """
        if run_ids != self.run_ids:
            replace_json(self._folder / _RUNS, run_ids)
            self.run_ids = run_ids

    def logged(self) -> int:
        """Count the events that MLflow has."""
        now = self.position
        refused = sum(start < now.offset for start in self.rejected)
        return now.events - len(now.artifacts) - refused

    def _move(self, position: Position) -> None:
        replace_json(self._folder / "offset.json", asdict(position))
        self.position = position


def read_run_ids(folder: Path) -> dict[str, str]:
    """Read which MLflow runs a study has, without MLflow.

    Args:
        folder: The queue's folder.

    Returns:
        The MLflow run id by trial key, and the study's own under "study"; empty before the first.

    Raises:
        ValueError: If the file is not what a sink wrote.
        OSError: If the file cannot be read.
    """
    path = folder / _RUNS
    if not path.exists():
        return {}
    content = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(content, dict):
        raise ValueError(f"{path} must hold a JSON object; got {content!r}: delete it")  # noqa: TRY004
    return {str(key): str(run_id) for key, run_id in content.items()}


def _load_run_ids(folder: Path) -> dict[str, str]:
    try:
        return read_run_ids(folder)
    except ValueError as error:
        _log.warning("%s; MLflow is asked for the runs", error)
        return {}


def _load_position(path: Path) -> Position:
    if not path.exists():
        return Position()
    try:
        saved = json.loads(path.read_text(encoding="utf-8"))
        return Position(int(saved["offset"]), int(saved["events"]), tuple(saved["artifacts"]))
    except (ValueError, KeyError, TypeError) as error:
        _log.warning("%s is not readable (%r): all events are sent again", path, error)
        return Position()


def _read_rejections(lines: JsonLines) -> Iterator[tuple[int, str]]:
    """Yield offset and reason of each record set aside."""
    for _, line in lines.read(0):
        record = _readable(line)
        if isinstance(record, dict):
            yield record["offset"], record["reason"]


def _readable(line: bytes) -> Any:
    try:
        return json.loads(line)
    except ValueError:
        return line.decode("utf-8", "replace")
