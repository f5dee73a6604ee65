"""Everything that is said to MLflow. It is imported on the first connection, not before."""

import logging
import os
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gam_ray.tracking.batches import Content, RunBatch
from gam_ray.tracking.events import STUDY, ArtifactReady, run_of
from gam_ray.tracking.view import RunsView

STUDY_TAG = "gam_ray.study"
TRIAL_TAG = "gam_ray.trial"

_log = logging.getLogger(__name__)

_PARENT_TAG = "mlflow.parentRunId"
_ENVIRONMENT = {
    # A failed call blocks up to 246 s with MLflow's own settings. Repeating is done here, where it
    # is known that a run has to be looked for before it is made once more.
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "30",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
}
_REFUSALS = frozenset(
    {
        "INVALID_PARAMETER_VALUE",
        "BAD_REQUEST",
        "MALFORMED_REQUEST",
        "ALREADY_EXISTS",
        "RESOURCE_ALREADY_EXISTS",
    }
)
# MLflow calls every error of its database but one kind a bad request, and clients call so any
# answer of a proxy with that number: what is none of the record's doing is tried again.
_PASSES = re.compile(
    r"^API request to endpoint .* failed with error code|\(\S*InterfaceError\)|QueuePool limit|"
    r"invalid transaction is rolled back"
)
_REFUSED_UPLOADS = frozenset({400, 413, 422})

# Makes MLflow's pages open on training runs rather than on language models.
EXPERIMENT_KIND = "mlflow.experimentKind"


class Rejected(Exception):  # noqa: N818 - an answer, not a fault
    """MLflow refuses a record for what is in it: sending it again cannot help."""


@dataclass
class _Run:
    id: str
    status: str
    is_empty: bool = True


class RunStore:
    """The runs of one study in MLflow, found or made by their tags.

    Args:
        tracking_uri: The server or database.
        experiment: The experiment's name; made if missing.
        study: What the runs are found by; unique within the experiment.
        artifact_root: Where files of a new experiment go; None leaves it to the server.
        run_ids: The runs known from earlier, by trial key; they win should a run be there twice.
        view: Of the run table, offered where the experiment has none of that study; None for none.

    Attributes:
        experiment_id: MLflow's; empty before the first connection.
    """

    def __init__(
        self,
        *,
        tracking_uri: str,
        experiment: str,
        study: str,
        artifact_root: Path | None,
        run_ids: dict[str, str],
        view: RunsView | None = None,
    ) -> None:
        self._view = view
        self._uri = tracking_uri
        self._experiment = experiment
        self._study = study
        self._artifact_root = artifact_root
        self._preferred = dict(run_ids)
        self._mlflow: Any = None
        self._client: Any = None
        self.experiment_id = ""
        self._runs: dict[str, _Run] = {}
        self._may_double = False

    def connect(self) -> None:
        """Find or make the experiment and learn which runs there are, unless that is done.

        Raises:
            RuntimeError: If the experiment is deleted.
            Exception: Whatever MLflow, its database or the network raise.
        """
        if self._client is None:
            self._mlflow = _load_mlflow()
            client = self._mlflow.MlflowClient(tracking_uri=self._uri)
            self._preferred |= self.run_ids()
            self.experiment_id = self._find_experiment(client)
            self._offer_view(client)
            self._runs = self._find_runs(client)
            self._client = client

    def disconnect(self) -> None:
        """Forget what is known of MLflow's side: after a failure it may be otherwise."""
        self._client = None

    def run_ids(self) -> dict[str, str]:
        """Return the MLflow run id by trial key, the study's own under "study"."""
        return {key: run.id for key, run in self._runs.items()}

    def log(self, key: str, batch: RunBatch, *, apart: bool) -> None:
        """Log what waits for one run.

        Args:
            key: The trial's key, or "study".
            batch: What waits.
            apart: Whether params, tags and metrics go in requests of their own, so that as much as
                possible gets through.

        Raises:
            Rejected: If MLflow refuses the content.
            Exception: Whatever MLflow, its database or the network raise.
        """
        run = self._ensure_run(key, batch)
        refusals = []
        for content in batch.parts() if apart else [batch.content]:
            try:
                self._ask(self._log_batch, run.id, content)
            except Rejected as refusal:
                refusals.append(str(refusal))
        self._set_status(run, batch)
        if refusals:
            raise Rejected("; ".join(refusals))

    def upload(self, event: ArtifactReady) -> None:
        """Upload a file.

        Raises:
            Rejected: If the file is gone or not readable, or the store refuses it.
            Exception: Whatever MLflow, its artifact store or the network raise.
        """
        if not (Path(event.path).is_file() and os.access(event.path, os.R_OK)):
            raise Rejected(f"{event.path} is no file that can be read")
        run = self._ensure_run(run_of(event), RunBatch())
        try:
            self._ask(self._client.log_artifact, run.id, event.path, event.folder or None)
        except OSError as error:
            response = getattr(error, "response", None)
            if getattr(response, "status_code", None) in _REFUSED_UPLOADS:
                raise Rejected(str(error)) from error
            raise

    def _find_experiment(self, client: Any) -> str:
        found = client.get_experiment_by_name(self._experiment)
        if found is None:
            try:
                return str(
                    client.create_experiment(
                        self._experiment,
                        self._location(),
                        tags={EXPERIMENT_KIND: "custom_model_development"},
                    )
                )
            except self._mlflow.MlflowException as error:  # another study may have been faster
                if error.error_code != "RESOURCE_ALREADY_EXISTS":
                    raise
            found = client.get_experiment_by_name(self._experiment)
        if found is None or found.lifecycle_stage != "active":
            raise RuntimeError(
                f"the MLflow experiment {self._experiment!r} is deleted: restore it with "
                "`mlflow experiments restore`, or name another one"
            )
        return str(found.experiment_id)

    def _offer_view(self, client: Any) -> None:
        """Add the view, unless somebody has one of that key, perhaps changed."""
        if self._view is None:
            return
        if self._view.key not in client.get_experiment(self.experiment_id).tags:
            value = self._view.value(int(time.time() * 1000))
            client.set_experiment_tag(self.experiment_id, self._view.key, value)
        self._view = None

    def _location(self) -> str | None:
        return None if self._artifact_root is None else self._artifact_root.resolve().as_uri()

    def _find_runs(self, client: Any) -> dict[str, _Run]:
        found: dict[str, list[_Run]] = {}
        token = None
        while True:
            page = client.search_runs(
                [self.experiment_id],
                f"tags.`{STUDY_TAG}` = '{self._study}'",
                order_by=["attributes.start_time ASC"],
                page_token=token,
            )
            for each in page:
                is_empty = not (each.data.metrics or each.data.params)
                run = _Run(each.info.run_id, each.info.status, is_empty)
                found.setdefault(each.data.tags.get(TRIAL_TAG, STUDY), []).append(run)
            token = page.token
            if not token:
                return {key: self._choose(client, key, runs) for key, runs in found.items()}

    def _choose(self, client: Any, key: str, runs: list[_Run]) -> _Run:
        """Choose one of the runs of a key; of the others those go that are empty.

        An empty one was made by a call that MLflow carried out after it was given up and repeated.
        """
        preferred = self._preferred.get(key)
        chosen = min(runs, key=lambda run: (run.id != preferred, run.is_empty))
        for run in runs:
            if run.is_empty and run is not chosen:
                client.delete_run(run.id)
                _log.info("deleted MLflow run %s, an empty double of %s's", run.id, key)
        return chosen

    def _ensure_run(self, key: str, batch: RunBatch) -> _Run:
        if key not in self._runs:
            tags = {STUDY_TAG: self._study}
            if key != STUDY:
                tags |= {TRIAL_TAG: key, _PARENT_TAG: self._ensure_run(STUDY, RunBatch()).id}
            name = batch.name or (self._study if key == STUDY else key)
            try:
                made = self._client.create_run(self.experiment_id, batch.start_ms, tags, name)
            except Exception:
                self._may_double = True  # MLflow may still carry it out
                raise
            self._runs[key] = _Run(made.info.run_id, made.info.status)
        return self._runs[key]

    def _log_batch(self, run_id: str, content: Content) -> None:
        entities = self._mlflow.entities
        self._client.log_batch(  # splits by MLflow's limits for one request
            run_id,
            metrics=[entities.Metric(*row) for row in content.metrics],
            params=[entities.Param(*pair) for pair in content.params],
            tags=[entities.RunTag(*pair) for pair in content.tags.items()],
            synchronous=True,
        )

    def _ask(self, call: Callable[..., object], *args: object) -> None:
        try:
            call(*args)
        except self._mlflow.MlflowException as error:
            if error.error_code in _REFUSALS and not _PASSES.search(str(error)):
                raise Rejected(str(error)) from error
            raise

    def _set_status(self, run: _Run, batch: RunBatch) -> None:
        if batch.ending is not None:
            status, time_ms = batch.ending
            self._ask(self._client.set_terminated, run.id, status, time_ms)
            run.status = status
            if self._may_double and run is self._runs.get(STUDY):  # the end: look once more
                self._preferred |= self.run_ids()
                self._find_runs(self._client)
        elif batch.start_ms is not None and run.status != "RUNNING":
            self._ask(self._client.update_run, run.id, "RUNNING")
            run.status = "RUNNING"


def _load_mlflow() -> Any:
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    import mlflow  # it takes seconds, which only the sink's thread shall spend

    for name in ("mlflow", "alembic"):  # they write to the terminal by handlers of their own
        logger = logging.getLogger(name)
        logger.setLevel(max(logger.level, logging.WARNING))
    return mlflow
