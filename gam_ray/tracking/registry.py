"""MLflow's model registry: an exported model under a name, in versions."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from gam_ray.tracking.failures import mask_credentials
from gam_ray.tracking.sink import artifact_root_for
from gam_ray.tracking.store import RunStore

# What `mlflow models` installs to serve it.
REQUIREMENTS = ("mlflow", "numpy", "onnx", "onnxruntime")


class RegistryError(RuntimeError):
    """MLflow did not take a model; the message says why."""


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


def register_onnx(
    name: str,
    file: Path,
    *,
    takes: Tensors,
    gives: Tensors,
    card: str,
    metadata: dict[str, Any],
    tracking_uri: str,
    experiment: str,
    study: str,
    trial: str,
) -> Registered:
    """Make an ONNX file the newest version of a registered model, with its signature and card.

    Args:
        name: Of the model; made if missing.
        file: The ONNX file.
        takes: Its input.
        gives: Its output.
        card: Markdown; the version's description.
        metadata: What is to travel with the model, as plain data.
        tracking_uri: The server or database that has the registry.
        experiment: The study's; made if missing.
        study: The study's name.
        trial: Key of the trial, whose run it is linked to.

    Raises:
        RegistryError: If MLflow, its database or the network fail.
    """
    try:
        run_id = _run_of_trial(tracking_uri, experiment, study, trial)
        mlflow = _mlflow_at(tracking_uri, experiment)
        logged = _log(
            mlflow, name, file, _signature(takes, gives), metadata=metadata, run_id=run_id
        )
        number = int(logged.registered_model_version)
        mlflow.MlflowClient().update_model_version(name, str(number), description=card)
    except Exception as error:  # whatever MLflow, its database or the network raise
        raise RegistryError(
            f"MLflow at {mask_credentials(tracking_uri, tracking_uri)} did not register {name!r}: "
            f"{mask_credentials(str(error), tracking_uri)}"
        ) from error
    return Registered(name, number, f"models:/{name}/{number}", run_id)


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


def _mlflow_at(tracking_uri: str, experiment: str) -> Any:
    import mlflow

    mlflow.set_tracking_uri(tracking_uri)
    mlflow.set_registry_uri(tracking_uri)
    mlflow.set_experiment(experiment)
    return mlflow


def _log(
    mlflow: Any,
    name: str,
    file: Path,
    signature: Any,
    *,
    metadata: dict[str, Any],
    run_id: str | None,
) -> Any:
    import mlflow.onnx as flavor
    import onnx

    # Not mlflow.onnx.log_model: it takes no run, and one begun anew would lose how it ended.
    return mlflow.models.Model.log(
        artifact_path=None,
        name="model",
        flavor=flavor,
        run_id=run_id,
        registered_model_name=name,
        onnx_model=onnx.load(file),
        signature=signature,
        metadata=metadata,
        pip_requirements=[f"{package}=={version(package)}" for package in REQUIREMENTS],
        save_as_external_data=False,
    )
