"""Studies as jobs of a Ray cluster, through Ray's Jobs API.

A study's name is the id of its job, so that a second one of that name cannot run beside it. Ray
refuses an id that was used before: the second attempt of ``digits``, which takes the study up
where the first one left it, is ``digits@2`` (a study's name has no ``@``), then ``digits@3``.

What travels is the study's file with its search space in it and, unless the cluster's image has
it, the code of gam_ray. What else a study needs must be on the cluster: packages, data sets,
credentials of MLflow and of the storage in the environment of its nodes.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import shlex
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from gam_ray.config import StudyConfig
from gam_ray.config.secrets import masked, secret_paths
from gam_ray.study.errors import StudyError

# Ray's own are SIGTERM and 3 s, but a study ends in order on an interrupt, and needs longer.
STOP_ENVIRONMENT = {"RAY_JOB_STOP_SIGNAL": "SIGINT", "RAY_JOB_STOP_WAIT_TIME_S": "60"}
LIVE = ("pending", "running")
# What `gam-ray run` ends with where the study was stopped and can be resumed.
STOPPED_EXIT_CODE = 3
REACH_TIMEOUT_S = 10.0
POLL_S = 1.0
RECONNECT_S = 2.0
_CHATTY = (
    "ray.dashboard.modules.dashboard_sdk",
    "ray.dashboard.modules.job.sdk",
    "ray._private.runtime_env.packaging",
)
PACKAGE = Path(__file__).parents[1]


@dataclass(frozen=True)
class Job:
    """A job that runs or ran a study.

    Attributes:
        study: The study's name.
        job: Ray's submission id.
        attempt: 1, 2, … of the study on this cluster.
        state: ``pending``, ``running``, ``succeeded``, ``stopped`` or ``failed``.
        exit_code: Of its process; None while there is none, and where it was killed.
        started: Seconds since the epoch, or None.
        ended: Seconds since the epoch, or None.
        folder: The study's folder, as the nodes see it.
        message: Ray's own words on the state, for people.
    """

    study: str
    job: str
    attempt: int
    state: str
    exit_code: int | None
    started: float | None
    ended: float | None
    folder: str
    message: str

    @property
    def is_live(self) -> bool:
        """Whether it runs or is going to."""
        return self.state in LIVE

    def to_mapping(self) -> dict[str, Any]:
        """The job as plain data, for scripts; the message is left to people."""
        return {name: value for name, value in asdict(self).items() if name != "message"}


class Jobs:
    """The studies on a cluster.

    Args:
        address: Of its dashboard, such as ``http://head:8265``.
        client: What speaks to it; by default Ray's own.

    Raises:
        ValueError: If the address is none of a dashboard.
        StudyError: If nothing answers there, or the token is not right.
    """

    def __init__(self, address: str, client: Any = None) -> None:
        if not is_dashboard(address):
            raise ValueError(
                f"--address must be that of the cluster's dashboard, such as http://head:8265, "
                f"but got {address!r}"
            )
        self.address = address.rstrip("/")
        use_token()
        with self._told():
            self._client = client or _client(self.address)

    def studies(self) -> list[Job]:
        """All jobs that are studies, the oldest first."""
        with self._told():
            found = [_job(details) for details in self._client.list_jobs()]
        return sorted((job for job in found if job), key=lambda job: (job.started or 0, job.job))

    def latest(self, study: str) -> Job | None:
        """The newest attempt of a study, or None."""
        attempts = [job for job in self.studies() if job.study == study]
        return max(attempts, key=lambda job: job.attempt, default=None)

    def find(self, study: str) -> Job:
        """The newest attempt of a study.

        Raises:
            ValueError: If the cluster does not know the study.
        """
        job = self.latest(study)
        if job is None:
            known = ", ".join(sorted({job.study for job in self.studies()})) or "none"
            raise ValueError(f"no study {study!r} on {self.address}; it knows: {known}")
        return job

    def submit(
        self, config: StudyConfig, *, data_root: Path | None = None, send_code: bool = True
    ) -> Job:
        """Send a study to the cluster; one that ended there before goes on.

        Args:
            config: The study.
            data_root: Folder of data sets as the nodes see it; by default their GAM_RAY_DATA.
            send_code: Whether gam_ray's code goes along; without, the nodes' own is used.

        Raises:
            ValueError: If the study runs already, naming who holds it, or cannot run there.
        """
        check_for_cluster(config, data_root)
        before = self.latest(config.name)
        if before and before.is_live:
            raise ValueError(self._held(before))
        attempt = before.attempt + 1 if before else 1
        job = config.name if attempt == 1 else f"{config.name}@{attempt}"
        with tempfile.TemporaryDirectory(prefix="gam-ray-") as folder:
            file = Path(folder) / f"{config.name}.yaml"
            file.write_text(study_text(config), encoding="utf-8")
            try:
                with self._told():
                    self._client.submit_job(
                        submission_id=job,
                        entrypoint=_entrypoint(file.name, data_root),
                        runtime_env=_runtime_env(folder, send_code=send_code),
                        metadata={
                            "gam_ray.study": config.name,
                            "gam_ray.attempt": str(attempt),
                            "gam_ray.folder": folder_of(config),
                        },
                    )
            except StudyError:
                holder = self.latest(config.name)
                # Another submit of the same moment was faster.
                if holder and holder.job == job:
                    raise ValueError(self._held(holder)) from None
                raise
        return self.find(config.name)

    def logs(self, job: str) -> str:
        """Everything that a job has printed so far."""
        with self._told():
            return str(self._client.get_job_logs(job))

    def follow(self, job: str, write: Callable[[str], None]) -> Job:
        """Pass on what a job prints until it has ended, also over a lost connection.

        Args:
            job: Its id.
            write: Takes the next piece, line ends included.

        Returns:
            The job as it ended.
        """
        seen = 0
        while True:
            piece, skip = "", seen
            try:
                for piece in _pieces(self._client.tail_job_logs(job)):
                    # A new connection begins at the beginning.
                    fresh, skip = piece[skip:], max(0, skip - len(piece))
                    if fresh:
                        seen += len(fresh)
                        write(fresh)
            except (RuntimeError, OSError):
                time.sleep(RECONNECT_S)
            now = self._get(job)
            if not now.is_live:
                return now
            time.sleep(POLL_S)

    def stop(self, job: str, timeout_s: float) -> Job:
        """Interrupt a job, so that its study ends in order, and wait for its end.

        Returns:
            The job as it is then; still live if the time was not enough.
        """
        with self._told():
            self._client.stop_job(job)
        return self.wait(job, timeout_s)

    def wait(self, job: str, timeout_s: float) -> Job:
        """The job once it has ended, or as it is after that time."""
        deadline = time.monotonic() + timeout_s
        while (now := self._get(job)).is_live and time.monotonic() < deadline:
            time.sleep(POLL_S)
        return now

    def run_doctor(self, file: str | None, data_root: Path | None, *, send_code: bool) -> str:
        """Let a job of the cluster run `gam-ray doctor` there.

        Args:
            file: The text of a study file, or None.
            data_root: As `submit` has it.
            send_code: As `submit` has it.

        Returns:
            What it printed.
        """
        with tempfile.TemporaryDirectory(prefix="gam-ray-") as folder:
            study = Path(folder) / "study.yaml"
            if file is not None:
                study.write_text(file, encoding="utf-8")
            words = ["doctor", *([study.name] if file else []), "--address", "auto", "--json"]
            with self._told():
                job = self._client.submit_job(
                    entrypoint=_command(words, data_root),
                    runtime_env=_runtime_env(folder, send_code=send_code),
                )
            while self._status(job) in LIVE:
                time.sleep(POLL_S)
        return self.logs(job)

    def _get(self, job: str) -> Job:
        with self._told():
            found = _job(self._client.get_job_info(job))
        assert found is not None
        return found

    def _status(self, job: str) -> str:
        with self._told():
            return _state(self._client.get_job_info(job))

    def _held(self, job: Job) -> str:
        return (
            f"the study {job.study!r} is {job.state} on {self.address} as job {job.job}; follow it "
            f"with `gam-ray logs {job.study} --address {self.address} --follow`, or end it with "
            f"`gam-ray stop {job.study} --address {self.address}`"
        )

    @contextmanager
    def _told(self) -> Iterator[None]:
        """Ray's errors as ours."""
        from ray.exceptions import AuthenticationError

        try:
            yield
        except AuthenticationError as error:
            raise StudyError(
                f"{self.address} wants a token, and got none or another; copy the cluster's "
                "~/.ray/auth_token here, or set RAY_AUTH_TOKEN to it"
            ) from error
        except OSError as error:
            raise StudyError(
                f"no Ray dashboard answers at {self.address} ({error}); give the head's, such as "
                "http://head:8265, and see that it runs and that this machine reaches it"
            ) from error
        except RuntimeError as error:
            raise StudyError(masked(f"{self.address} refused: {error}")) from error


def is_dashboard(address: str | None) -> bool:
    """Whether an address is that of a dashboard, to which jobs are sent."""
    return bool(address) and str(address).startswith(("http://", "https://"))


def use_token() -> None:
    """Send the cluster's token where one is known: Ray does so only if its mode is set.

    Ray reads the mode once, when it is imported: where it was imported before, nothing is set,
    since only processes started later would obey, and no longer go together with this one.
    """
    if "RAY_AUTH_MODE" in os.environ or is_ray_imported():
        return
    known = os.environ.get("RAY_AUTH_TOKEN") or os.environ.get("RAY_AUTH_TOKEN_PATH")
    if known or (Path.home() / ".ray" / "auth_token").is_file():
        os.environ["RAY_AUTH_MODE"] = "token"


def is_ray_imported() -> bool:
    """Whether this process has read Ray's settings, which it does once."""
    return "ray" in sys.modules


def study_text(config: StudyConfig) -> str:
    """A study with its search space as the text of one study file.

    It is JSON, which is YAML, since YAML writers leave text such as ``1e3`` without quotes. What
    was left out is left out again: a seed that is not given derives from the study's.
    """
    data = config.model_dump(mode="json", exclude_unset=True)
    return json.dumps(data, indent=2, ensure_ascii=False) + "\n"


def check_for_cluster(config: StudyConfig, data_root: Path | None = None) -> None:
    """Refuse what only this machine would find, and secrets that would be stored elsewhere.

    Raises:
        ValueError: Naming all that is wrong.
    """
    problems = []
    if "://" not in config.storage and not Path(config.storage).is_absolute():
        problems.append(
            "storage: must be a folder that all nodes see, by its absolute path, such as "
            f"/mnt/shared/studies, but got {config.storage!r}"
        )
    uri = config.tracking.uri or ""
    if uri and ("://" not in uri or (uri.startswith("sqlite:///") and uri[10:11] != "/")):
        problems.append(
            "tracking.uri: must be an address that the cluster reaches, such as "
            f"http://mlflow:5000, but got {uri!r}; or leave it out"
        )
    if data_root and not data_root.is_absolute():
        problems.append(
            "--data-root: must be an absolute path, as the nodes see it, but got "
            f"{str(data_root)!r}; or set GAM_RAY_DATA on the nodes"
        )
    problems += [
        f"{path}: holds a password, which the cluster would store and show; set it in the "
        "environment of the nodes (MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or "
        "PGPASSWORD), and leave it out here"
        for path in secret_paths(config.to_mapping())
    ]
    if problems:
        raise ValueError("\n".join(problems))


def _client(address: str) -> Any:
    """Ray's client, once it is known that somebody answers: Ray itself would wait for minutes."""
    # An error of HTTP is an answer, and Ray's client tells what it means.
    with suppress(urllib.error.HTTPError):
        url = f"{address}/api/version"  # http or https, see is_dashboard
        urllib.request.urlopen(url, timeout=REACH_TIMEOUT_S).close()  # noqa: S310
    from ray.job_submission import JobSubmissionClient

    # What is packed and sent, our commands tell themselves. Ray sets levels at its import.
    for name in _CHATTY:
        logging.getLogger(name).setLevel(logging.WARNING)
    return JobSubmissionClient(address)


def folder_of(config: StudyConfig) -> str:
    """A study's folder, or its address on S3, as the nodes see it."""
    return f"{config.storage.rstrip('/')}/{config.name}"


def _entrypoint(file: str, data_root: Path | None) -> str:
    return _command(["run", file, "--address", "auto"], data_root)


def _command(words: list[str], data_root: Path | None) -> str:
    """A command line of gam-ray. Without the shell's `exec` an interrupt would reach only it."""
    if data_root:
        words = [*words, "--data-root", str(data_root)]
    return f"exec python -m gam_ray.cli {shlex.join(words)}"


def _runtime_env(folder: str, *, send_code: bool) -> dict[str, Any]:
    env: dict[str, Any] = {"working_dir": folder, "env_vars": STOP_ENVIRONMENT}
    return {**env, "py_modules": [str(PACKAGE)]} if send_code else env


def _job(details: Any) -> Job | None:
    """A job of ours; None for any other."""
    metadata = details.metadata or {}
    if not details.submission_id or "gam_ray.study" not in metadata:
        return None
    return Job(
        study=metadata["gam_ray.study"],
        job=details.submission_id,
        attempt=int(metadata["gam_ray.attempt"]),
        state=_state(details),
        exit_code=details.driver_exit_code,
        started=_seconds(details.start_time),
        ended=_seconds(details.end_time),
        folder=metadata["gam_ray.folder"],
        message=masked(details.message or ""),
    )


def _state(details: Any) -> str:
    if details.driver_exit_code == STOPPED_EXIT_CODE:
        return "stopped"
    return str(getattr(details.status, "value", details.status)).lower()


def _seconds(milliseconds: int | None) -> float | None:
    return milliseconds / 1000 if milliseconds else None


def _pieces(stream: Any) -> Iterator[str]:
    """An asynchronous stream of text as an ordinary one, closed if it is left early."""
    loop = asyncio.new_event_loop()
    try:
        while True:
            try:
                yield loop.run_until_complete(anext(stream))
            except StopAsyncIteration:
                return
    finally:
        loop.run_until_complete(stream.aclose())
        loop.close()
