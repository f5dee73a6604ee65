"""The sink: a thread that carries the queue to MLflow and never lets the study wait for it."""

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from gam_ray.tracking.batches import gather
from gam_ray.tracking.events import ArtifactReady, Event
from gam_ray.tracking.failures import explain, mask_credentials
from gam_ray.tracking.health import Health
from gam_ray.tracking.progress import Progress
from gam_ray.tracking.queue import TrackingQueue, parse_event
from gam_ray.tracking.store import Rejected, RunStore
from gam_ray.tracking.view import RunsView

_log = logging.getLogger(__name__)

_WINDOW = 1000  # lines looked at together
_POLL_S = 0.5
_FIRST_DELAY_S = 0.5
_LONGEST_DELAY_S = 30.0
_GRACE_S = 1.0  # for the thread to notice that it has to end
_UNSAFE_IN_FILTERS = "'\"`\\\n"


@dataclass(frozen=True)
class SinkStatus:
    """How far a sink is.

    Attributes:
        logged: Events that MLflow has.
        waiting: Events that it does not have yet.
        rejected: Events that MLflow refused, set aside in `rejected.jsonl`.
        last_error: The latest failure or refusal, kept after things went on; None if there was
            none since the start.
        failures: Failed attempts since the start; each is repeated.
    """

    logged: int
    waiting: int
    rejected: int
    last_error: str | None
    failures: int


@dataclass(frozen=True)
class _Line:
    start: int
    text: bytes
    event: Event


class _ClosedError(Exception):
    """The sink is closed in the middle of a window, which stays for the next sink."""


class _Backoff:
    """When to try again: twice as long after each failure, at once after a success."""

    def __init__(self) -> None:
        self._delay_s = 0.0
        self._due = 0.0

    def is_failing(self) -> bool:
        return self._delay_s > 0

    def is_due(self) -> bool:
        return time.monotonic() >= self._due

    def failed(self) -> None:
        self._delay_s = min(max(_FIRST_DELAY_S, 2 * self._delay_s), _LONGEST_DELAY_S)
        self._due = time.monotonic() + self._delay_s

    def succeeded(self) -> None:
        self._delay_s = self._due = 0.0

    def hurry(self) -> None:
        self._delay_s = min(self._delay_s, _FIRST_DELAY_S)
        self._due = 0.0


class MLflowSink:
    """Carries a study's queue to MLflow in a thread of its own.

    The study only appends to the queue; this side reads on from where it was, and repeats what
    failed until MLflow takes it. Runs are found by tag and rows carry the events' own times, so a
    repetition changes nothing. Use one sink for a queue at a time.

    `start` sets MLFLOW_HTTP_REQUEST_MAX_RETRIES, MLFLOW_HTTP_REQUEST_TIMEOUT (s),
    MLFLOW_DISABLE_TELEMETRY and MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT for the process where they
    are not set.

    Args:
        folder: The queue's folder, where the sink keeps its own files too.
        tracking_uri: An MLflow server, or a database such as `sqlite:////data/mlflow.db`.
        experiment: The experiment's name; made if missing.
        study: What the study's runs are found by, unique within the experiment: the same name
            means the same runs.
        artifact_root: Where the files of a new experiment in an SQLite database go; None means
            `artifacts` beside the database.
        view: Of the run table, added to the experiment; None for none.

    Raises:
        ValueError: If a name is empty or not usable, or `artifact_root` is given for a server.
        OSError: If the folder cannot be used.
    """

    def __init__(
        self,
        folder: Path,
        *,
        tracking_uri: str,
        experiment: str,
        study: str,
        artifact_root: Path | None = None,
        view: RunsView | None = None,
    ) -> None:
        _check_names(experiment, study)
        root = artifact_root_for(tracking_uri, artifact_root)
        self._lines = TrackingQueue(folder).lines
        self._progress = Progress(folder, self._lines.size())
        self._store = RunStore(
            tracking_uri=tracking_uri,
            experiment=experiment,
            study=study,
            artifact_root=root,
            run_ids=self._progress.run_ids,
            view=view,
        )
        self._uri = tracking_uri
        self._health = Health(folder, mask_credentials(tracking_uri, tracking_uri))
        self._records, self._uploads = _Backoff(), _Backoff()
        self._window = _WINDOW
        self._last_error: str | None = None
        self._failures = 0
        self._after_s = 0.0
        self._stopping, self._wake, self._moved = (threading.Event() for _ in range(3))
        self._thread = threading.Thread(target=self._run, name="mlflow-sink", daemon=True)

    def start(self, *, after_s: float = 0.0) -> None:
        """Start the thread. It waits for MLflow as long as it has to, and the caller does not.

        Args:
            after_s: It begins only then, or when it is drained: to import MLflow takes seconds of
                this process, which may have better things to do just now.

        Raises:
            ValueError: If it was started before.
        """
        if self._thread.ident is not None:
            raise ValueError("a sink starts once; got a second start: make a new sink")
        self._after_s = after_s
        self._health.write()
        self._thread.start()

    def status(self) -> SinkStatus:
        """Tell how far the sink is, without asking MLflow.

        Raises:
            OSError: If the queue cannot be read.
        """
        position = self._progress.position
        return SinkStatus(
            logged=self._progress.logged(),
            waiting=self._lines.count(position.offset) + len(position.artifacts),
            rejected=len(self._progress.rejected),
            last_error=self._last_error,
            failures=self._failures,
        )

    def run_ids(self) -> dict[str, str]:
        """Return the MLflow run id by trial key, and the study's own under "study"."""
        return dict(self._progress.run_ids)

    def drain(self, timeout_s: float) -> bool:
        """Wait until everything that is queued is logged or set aside.

        Args:
            timeout_s: Wait at most so many seconds.

        Returns:
            Whether nothing waits any more.

        Raises:
            ValueError: If the sink was not started.
            OSError: If the queue cannot be read.
        """
        if self._thread.ident is None:
            raise ValueError("a sink has to run to be drained; got none running: call start()")
        deadline = time.monotonic() + timeout_s
        self._records.hurry()
        self._uploads.hurry()
        self._wake.set()
        while True:
            self._moved.clear()
            if not self._has_work():
                return True
            remaining_s = deadline - time.monotonic()
            if remaining_s <= 0:
                return False
            self._moved.wait(min(remaining_s, _POLL_S))

    def close(self, timeout_s: float) -> SinkStatus:
        """Drain, then stop the thread. What is left waits in the queue for the next sink.

        Args:
            timeout_s: Drain for at most so many seconds; a request on its way then gets one more.

        Returns:
            How far it came.

        Raises:
            OSError: If the queue cannot be read.
        """
        if self._thread.ident is not None:
            self.drain(timeout_s)
            self._stopping.set()
            self._wake.set()
            self._thread.join(_GRACE_S)
            self._health.write(now=True)
        return self.status()

    def _has_work(self) -> bool:
        position = self._progress.position
        return bool(position.artifacts or self._lines.read(position.offset, 1))

    def _run(self) -> None:
        self._wake.wait(self._after_s)
        while not self._stopping.is_set():
            logged = self._attempt(self._log_window, self._records)
            uploaded = self._attempt(self._upload_next, self._uploads)
            self._health.write()
            if logged or uploaded:
                self._moved.set()
            else:
                self._wake.wait(_POLL_S)
                self._wake.clear()

    def _attempt(self, step: Callable[[], bool], backoff: _Backoff) -> bool:
        if not backoff.is_due():
            return False
        try:
            moved = step()
        except _ClosedError:
            return False
        except Exception as error:  # noqa: BLE001 - each store raises its vendor's own; all can pass
            self._note_failure(error, logging.DEBUG if backoff.is_failing() else logging.WARNING)
            backoff.failed()
            return False
        if backoff.is_failing():
            backoff.succeeded()
            self._note_recovery()
        return moved

    def _note_failure(self, error: Exception, level: int) -> None:
        self._failures += 1
        self._last_error = explain(error, self._uri)
        self._health.failed(self._last_error)
        _log.log(level, "records wait for MLflow, which is tried again: %s", self._last_error)
        self._store.disconnect()
        # Smaller requests get through where large ones meet a time or size limit on their way.
        self._window = max(1, self._window // 2)

    def _note_recovery(self) -> None:
        if not (self._records.is_failing() or self._uploads.is_failing()):
            self._health.recovered()
            _log.warning("MLflow takes records again")

    def _log_window(self) -> bool:
        offset = start = self._progress.position.offset
        found = self._lines.read(offset, self._window)
        if not found:
            return False
        self._store.connect()
        events = []
        for end, text in found:
            events += self._parse(start, text)
            start = end
        self._send(events)
        self._health.reached(self._store.experiment_id)
        self._progress.note_runs(self._store.run_ids())
        files = [line.start for line in events if isinstance(line.event, ArtifactReady)]
        self._progress.advance(start, len(found), files)
        self._window = min(2 * self._window, _WINDOW)
        return True

    def _parse(self, start: int, text: bytes) -> list[_Line]:
        try:
            return [_Line(start, text, parse_event(text))]
        except ValueError as error:
            self._set_aside(start, text, str(error))
            return []

    def _send(self, lines: list[_Line]) -> None:
        """Send lines together; if MLflow refuses, find the ones it means by halving."""
        alone = len(lines) == 1
        try:
            for key, batch in gather(line.event for line in lines).items():
                if self._stopping.is_set():
                    raise _ClosedError
                self._store.log(key, batch, apart=alone)
        except Rejected as refusal:
            if alone:
                self._set_aside(lines[0].start, lines[0].text, str(refusal))
                return
            half = len(lines) // 2
            self._send(lines[:half])
            self._send(lines[half:])

    def _upload_next(self) -> bool:
        """Upload the first file that waits, on its own: files may fail where rows do not."""
        if not self._progress.position.artifacts:
            return False
        self._store.connect()
        start = self._progress.position.artifacts[0]
        _, text = self._lines.read(start, 1)[0]
        event = parse_event(text)
        assert isinstance(event, ArtifactReady)
        try:
            self._store.upload(event)
        except Rejected as refusal:
            self._set_aside(start, text, str(refusal))
        self._progress.uploaded(start)
        return True

    def _set_aside(self, start: int, text: bytes, reason: str) -> None:
        self._last_error = mask_credentials(reason, self._uri)
        self._progress.set_aside(start, text, self._last_error)


def _check_names(experiment: str, study: str) -> None:
    if not experiment:
        raise ValueError(f"an experiment needs a name; got {experiment!r}: give one")
    if not study or any(character in _UNSAFE_IN_FILTERS for character in study):
        raise ValueError(
            f"a study is searched for by its name, without quotes, backslashes and line ends; "
            f"got {study!r}: rename it"
        )


def artifact_root_for(tracking_uri: str, root: Path | None = None) -> Path | None:
    """Where the files of a new experiment go: beside a SQLite database; a server has its own.

    Raises:
        ValueError: If `root` is given for another store than SQLite.
    """
    scheme, _, path = tracking_uri.partition(":///")
    if scheme.partition("+")[0] == "sqlite":
        return root or Path(path.partition("?")[0]).parent / "artifacts"
    if root is not None:
        raise ValueError(
            f"artifact_root is for SQLite databases; got {root} for another store: leave it out, "
            "a server has its own"
        )
    return None
