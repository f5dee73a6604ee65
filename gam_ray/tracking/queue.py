"""The queue between a study and MLflow: a file, so that neither has to wait for the other."""

import json
import logging
from pathlib import Path

from gam_ray.tracking.events import Event, event_from_json
from gam_ray.tracking.files import JsonLines

_log = logging.getLogger(__name__)

QUEUE = "events.jsonl"
"""The queue's file, in the folder of its sink."""


class TrackingQueue:
    """Events on their way to MLflow, in the file `QUEUE`.

    Any thread of one process may append; any process may read. An event is on the disk when
    `append` returns. Nothing is ever taken out: readers keep their own offset.

    Args:
        folder: Where the file lies; made if missing.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.lines = JsonLines(folder / QUEUE)

    def append(self, event: Event) -> None:
        """Write one event and wait until it is on the disk.

        Raises:
            OSError: If the disk refuses; the queue stays readable and takes later events.
        """
        self.lines.append(event.to_json())

    def read(self, offset: int = 0) -> list[tuple[int, Event]]:
        """Read the events behind an offset; lines that are no event are passed over and logged.

        Args:
            offset: Where to begin, in bytes: 0, or one that an earlier call returned.

        Returns:
            For each event the offset behind it, and the event.

        Raises:
            OSError: If the file cannot be read; one that does not exist is empty.
        """
        events = []
        for end, line in self.lines.read(offset):
            try:
                events.append((end, parse_event(line)))
            except ValueError as error:
                _log.warning("passed over a line before byte %d of the queue: %s", end, error)
        return events

    def close(self) -> None:
        """Give the file handle back; a later append opens the file again."""
        self.lines.close()


def parse_event(line: bytes) -> Event:
    """Return the event of one line of the queue.

    Raises:
        ValueError: If the line holds no event.
    """
    return event_from_json(json.loads(line))
