"""A cluster's Jobs API in memory, as Ray's client shows it: an id is used once."""

from __future__ import annotations

import threading
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any


class FakeClient:
    """What `ray.job_submission.JobSubmissionClient` does, as far as it is used.

    Attributes:
        sent: The arguments of every submission, and the files that travelled, by job.
        ended_at_stop: Whether a stopped job ends at once.
    """

    def __init__(self) -> None:
        self.sent: dict[str, dict[str, Any]] = {}
        self.stops: list[str] = []
        self.ended_at_stop = True
        self.before_submit: Callable[[], None] = lambda: None
        self.breaks = 0
        self._jobs: dict[str, SimpleNamespace] = {}
        self._logs: dict[str, str] = {}
        self._lock = threading.Lock()

    def submit_job(
        self,
        *,
        entrypoint: str,
        runtime_env: dict[str, Any],
        submission_id: str = "raysubmit_1",
        metadata: dict[str, str] | None = None,
    ) -> str:
        self.before_submit()
        with self._lock:
            if submission_id in self._jobs:
                raise RuntimeError(f"Request failed with status code 500: {submission_id} exists.")
            folder = Path(runtime_env["working_dir"])
            files = {file.name: file.read_text() for file in folder.iterdir()}
            self.sent[submission_id] = {
                "entrypoint": entrypoint, "runtime_env": runtime_env, "metadata": metadata,
                "files": files,
            }  # fmt: skip
            self._jobs[submission_id] = SimpleNamespace(
                submission_id=submission_id,
                metadata=metadata,
                status="PENDING",
                message="",
                start_time=1000 * (1 + len(self._jobs)),
                end_time=None,
                driver_exit_code=None,
            )
            self._logs[submission_id] = ""
        return submission_id

    def end(self, job: str, status: str, exit_code: int | None, message: str = "") -> None:
        found = self._jobs[job]
        found.status, found.driver_exit_code, found.message = status, exit_code, message
        found.end_time = 9000

    def print(self, job: str, text: str) -> None:
        self._logs[job] += text

    def list_jobs(self) -> list[SimpleNamespace]:
        driver = SimpleNamespace(submission_id=None, metadata={}, status="RUNNING")
        return [driver, *self._jobs.values()]

    def get_job_info(self, job: str) -> SimpleNamespace:
        return self._jobs[job]

    def get_job_logs(self, job: str) -> str:
        return self._logs[job]

    async def tail_job_logs(self, job: str) -> AsyncIterator[str]:
        """All of the log, line by line; each of the first `breaks` calls breaks off earlier."""
        lines = self._logs[job].splitlines(keepends=True)
        if self.breaks:
            self.breaks -= 1
            yield lines[0]
            yield lines[1][:3]
            raise RuntimeError("WebSocket connection closed unexpectedly")
        for line in lines:
            yield line
        if self._jobs[job].status == "PENDING":
            self.end(job, "SUCCEEDED", 0)

    def stop_job(self, job: str) -> bool:
        self.stops.append(job)
        if self.ended_at_stop:
            self.end(job, "STOPPED", None)
        return True
