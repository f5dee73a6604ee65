"""An exported model in MLflow: logged to its trial's run, and in the registry under a name."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from gam_ray.tracking.failures import mask_credentials
from gam_ray.tracking.sink import artifact_root_for
from gam_ray.tracking.store import STUDY_TAG, TRIAL_TAG, RunStore

# What `mlflow models` installs to serve it.
REQUIREMENTS = ("mlflow", "numpy", "onnx", "onnxruntime")
# Of a logged model: of its file.
DIGEST_TAG = "gam_ray.sha256"


class RegistryError(RuntimeError):
    """MLflow did not take a model; the message says why."""


@dataclass(frozen=True)
class Logged:
    """A model in MLflow.

    Attributes:
        model_id: MLflow's.
        uri: What `mlflow models serve --model-uri` takes.
        run_id: The trial's run, which it is linked to; None where MLflow has none.
    """

    model_id: str
    uri: str
    run_id: str | None


@dataclass(frozen=True)
class Registered:
    """A version of a model in the registry.

    Attributes:
        name: Of the model.
        version: 1, 2, …
        uri: What `mlflow models serve --model-uri` takes.
        run_id: The trial's run, which it is linked to; None where MLflow has none.
    """

    name: str
    version: int
    uri: str
    run_id: str | None


@dataclass(frozen=True)
class Tensors:
    """What goes into a model, or comes out: name, NumPy's type, and shape with -1 for any."""

    name: str
    type: str
    shape: tuple[int, ...]


def log_onnx(
    file: Path,
    *,
    takes: Tensors,
    gives: Tensors,
    metadata: dict[str, Any],
    tracking_uri: str,
    experiment: str,
    study: str,
    trial: str,
) -> Logged:
    """Log an ONNX file as a model with its signature, to a trial's run; the same file once.

    Args:
        file: The ONNX file.
        takes: Its input.
        gives: Its output.
        metadata: What is to travel with the model, as plain data.
        tracking_uri: The server or database.
        experiment: The study's; made if missing.
        study: The study's name.
        trial: Key of the trial, whose run it is linked to.

    Raises:
        RegistryError: If MLflow, its database or the network fail.
    """
    with _explained(f"log {file.name}", tracking_uri):
        run_id = _run_of_trial(tracking_uri, experiment, study, trial)
        mlflow, experiment_id = _mlflow_at(tracking_uri, experiment)
        tags = {STUDY_TAG: study, TRIAL_TAG: trial, DIGEST_TAG: _digest(file)}
        model_id = _find(mlflow, experiment_id, tags)
        if model_id is None:
            signature = _signature(takes, gives)
            model_id = _log(
                mlflow, file, signature, metadata=metadata, run_id=run_id, tags=tags
            ).model_id
    return Logged(model_id, f"models:/{model_id}", run_id)


def register(name: str, logged: Logged, *, card: str, tracking_uri: str) -> Registered:
    """Make a logged model the newest version of a registered one, with a card.

    Args:
        name: Of the registered model; made if missing.
        logged: What `log_onnx` gave.
        card: Markdown; the version's description.
        tracking_uri: The server or database that has the registry.

    Raises:
        RegistryError: If MLflow, its database or the network fail.
    """
    with _explained(f"register {name!r}", tracking_uri):
        import mlflow

        mlflow.set_tracking_uri(tracking_uri)
        mlflow.set_registry_uri(tracking_uri)
        number = int(mlflow.register_model(logged.uri, name).version)
        mlflow.MlflowClient().update_model_version(name, str(number), description=card)
    return Registered(name, number, f"models:/{name}/{number}", logged.run_id)


@contextmanager
def _explained(what: str, tracking_uri: str) -> Iterator[None]:
    try:
        yield
    except Exception as error:  # whatever MLflow, its database or the network raise
        raise RegistryError(
            f"MLflow at {mask_credentials(tracking_uri, tracking_uri)} did not {what}: "
            f"{mask_credentials(str(error), tracking_uri)}"
        ) from error


def _digest(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _find(mlflow: Any, experiment_id: str, tags: dict[str, str]) -> str | None:
    """The model of these tags that was logged whole, if there is one."""
    conditions = " AND ".join(f"tags.`{name}` = '{value}'" for name, value in tags.items())
    found = mlflow.MlflowClient().search_logged_models([experiment_id], conditions)
    ready = [str(each.model_id) for each in found if each.status == "READY"]
    return ready[0] if ready else None


def _run_of_trial(tracking_uri: str, experiment: str, study: str, trial: str) -> str | None:
    runs = RunStore(
        tracking_uri=tracking_uri,
        experiment=experiment,
        study=study,
        artifact_root=artifact_root_for(tracking_uri),
        run_ids={},
    )
    runs.connect()
    return runs.run_ids().get(trial)


def _signature(takes: Tensors, gives: Tensors) -> Any:
    import numpy as np
    from mlflow.models import ModelSignature
    from mlflow.types import Schema, TensorSpec

    inputs, outputs = (
        Schema([TensorSpec(np.dtype(each.type), each.shape, each.name)]) for each in (takes, gives)
    )
    return ModelSignature(inputs=inputs, outputs=outputs)


def _mlflow_at(tracking_uri: str, experiment: str) -> tuple[Any, str]:
    """MLflow, and its id of the experiment."""
    import mlflow

    mlflow.set_tracking_uri(tracking_uri)
    return mlflow, str(mlflow.set_experiment(experiment).experiment_id)


def _log(
    mlflow: Any,
    file: Path,
    signature: Any,
    *,
    metadata: dict[str, Any],
    run_id: str | None,
    tags: dict[str, str],
) -> Any:
    import mlflow.onnx as flavor
    import onnx

    # Not mlflow.onnx.log_model: it takes no run, and one begun anew would lose how it ended.
    return mlflow.models.Model.log(
        artifact_path=None,
        name="model",
        flavor=flavor,
        run_id=run_id,
        tags=tags,
        onnx_model=onnx.load(file),
        signature=signature,
        metadata=metadata,
        pip_requirements=[f"{package}=={version(package)}" for package in REQUIREMENTS],
        save_as_external_data=False,
    )
