"""What comes of a study: its network in files, and predictions."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TextIO

import typer

from gam_ray.cli.common import (
    FAILED,
    DataOption,
    DebugOption,
    JsonOption,
    StorageOption,
    err,
    errors,
    print_json,
    say,
    store_of,
)
from gam_ray.config.secrets import masked

if TYPE_CHECKING:
    from gam_ray.export.description import ModelDescription
    from gam_ray.export.predicting import ImageFile, Prediction, Predictor
    from gam_ray.export.provenance import Provenance
    from gam_ray.export.tables import PredictionTable
    from gam_ray.study.store import StudyStore
    from gam_ray.tracking.registry import Logged, Registered

# Lines of images that cannot be read, of which the rest is counted.
MOST_UNREADABLE = 20


def export(
    study: Annotated[
        str,
        typer.Argument(
            metavar="STUDY",
            help="A study's file, folder or name, or the folder of a trial of `gam-ray train`.",
        ),
    ],
    storage: StorageOption = "studies",
    *,
    trial: Annotated[
        str | None,
        typer.Option(metavar="KEY|NUMBER", help="A trial, in place of the study's choice."),
    ] = None,
    output: Annotated[
        Path | None, typer.Option(help="Folder of the model; by default models/NAME here.")
    ] = None,
    register: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Make it a version of this model in MLflow's registry."),
    ] = None,
    data_root: DataOption = None,
    as_json: JsonOption = False,
    debug: DebugOption = False,
) -> None:
    """Write the chosen network, with its preprocessing, as torch.export and ONNX, and its card.

    Example: `gam-ray export quickstart --output models/digits`
    """
    with errors(debug=debug):
        from gam_ray.export.writing import export_model
        from gam_ray.study.versions import all_versions

        store = _store(study, storage)
        provenance = _provenance(study, store, trial)
        tracking = _tracking_of(store) if register or _has_run(store, provenance) else None
        folder = output or Path("models") / (provenance.study or provenance.config.key())
        described = export_model(provenance, folder, data_root=data_root, versions=all_versions())
        logged = _log(folder, described, tracking, is_asked=bool(register)) if tracking else None
        registered = None
        if register and logged and tracking:
            registered = _register(register, folder, logged, tracking)
        if as_json:
            told = {"folder": str(folder.absolute()), "model": described.to_mapping()}
            in_mlflow = {"logged": logged, "registered": registered}
            print_json({**told, **{k: asdict(v) if v else None for k, v in in_mlflow.items()}})
            return
        say(f"trial       {provenance.trial}")
        say(f"model       {folder}: model.pt2, model.onnx, model.json, MODEL_CARD.md")
        say(f"checked on  {described.checked_on}")
        if logged:
            say(f"in MLflow   {logged.uri}")
        if registered:
            say(f"registered  {registered.uri}")
        say(f"predict     gam-ray predict IMAGES --model {folder}")


def predict(
    images: Annotated[
        list[str],
        typer.Argument(metavar="IMAGES…", help="Image files, folders of them, or patterns."),
    ],
    model: Annotated[
        Path,
        typer.Option(metavar="FOLDER", help="What `gam-ray export` wrote.", show_default=False),
    ],
    output: Annotated[
        Path | None,
        typer.Option(
            help="Classes: a file in place of standard output. Segmentation: the folder of the "
            "masks; by default masks here."
        ),
    ] = None,
    probabilities: Annotated[
        bool, typer.Option("--probabilities", help="Classes: those of all classes as well.")
    ] = False,
    *,
    as_json: Annotated[bool, typer.Option("--json", help="JSON lines in place of CSV.")] = False,
    debug: DebugOption = False,
) -> None:
    """Predict the class of images, or of their pixels as colour masks, with an exported model.

    An image that cannot be read is named and passed over; the exit code is then 1.

    Example: `gam-ray predict photos/ more/*.jpg --model models/digits --output classes.csv`
    """
    with errors(debug=debug):
        from gam_ray.export.predicting import Predictor, find_images
        from gam_ray.export.tables import PredictionTable, check_masks

        files = find_images(images)
        predictor = Predictor(model)
        masks = None
        if predictor.description.problem == "segmentation":
            masks = output or Path("masks")
            check_masks(masks, files)
        with _stream(None if masks else output) as stream:
            table = PredictionTable(
                stream,
                predictor.description,
                as_json=as_json,
                probabilities=probabilities,
                masks=masks,
            )
            for prediction in _with_progress(predictor, files):
                table.write(prediction)
        _tell(table, len(files))
        if table.unreadable:
            raise typer.Exit(FAILED)


def _store(study: str, storage: str) -> StudyStore | None:
    """The study's store; None for the folder of a single trial."""
    store = store_of(study, storage)
    is_study = store.read("study") is not None or not Path(study).is_dir()
    return store if is_study else None


def _provenance(study: str, store: StudyStore | None, trial: str | None) -> Provenance:
    from gam_ray.export.provenance import of_single_trial
    from gam_ray.study import provenance

    if store is None:
        if trial is not None:
            raise ValueError(f"--trial is for studies, but {study} is none; leave it out")
        return of_single_trial(Path(study))
    found = provenance.chosen(store) if trial is None else provenance.named(store, trial)
    store.fetch(found.checkpoint)
    return found


def _has_run(store: StudyStore | None, provenance: Provenance) -> bool:
    """Whether the trial has a run in the study's MLflow, as the study's folder says."""
    from gam_ray.tracking import read_run_ids

    return store is not None and provenance.config.key() in read_run_ids(store.tracking)


def _log(
    folder: Path, described: ModelDescription, tracking: tuple[str, str], *, is_asked: bool
) -> Logged | None:
    """Log the model to its trial's run; None, and a word, if MLflow is away and nobody asked."""
    from gam_ray.export.writing import tensor_shapes
    from gam_ray.study.errors import StudyError
    from gam_ray.tracking.registry import RegistryError, Tensors, log_onnx

    takes, gives = described.input, described.output
    shapes = tensor_shapes(described)
    uri, experiment = tracking
    try:
        return log_onnx(
            folder / "model.onnx",
            takes=Tensors(takes.name, takes.type, shapes[takes.name]),
            gives=Tensors(gives.name, gives.type, shapes[gives.name]),
            metadata=described.to_mapping(),
            tracking_uri=uri,
            experiment=experiment,
            study=described.study or described.trial,
            trial=described.trial,
        )
    except RegistryError as error:
        if is_asked:
            raise StudyError(f"the model is in {folder}, but {error}") from error
        _say_beside(masked(f"not in MLflow: {error}"))
        return None


def _register(name: str, folder: Path, logged: Logged, tracking: tuple[str, str]) -> Registered:
    from gam_ray.export.writing import CARD
    from gam_ray.study.errors import StudyError
    from gam_ray.tracking.registry import RegistryError, register

    card = (folder / CARD).read_text(encoding="utf-8")
    try:
        return register(name, logged, card=card, tracking_uri=tracking[0])
    except RegistryError as error:
        raise StudyError(f"the model is in {folder}, but {error}") from error


def _tracking_of(store: StudyStore | None) -> tuple[str, str]:
    """Address and experiment of a study; for a single trial what MLflow's environment says."""
    from gam_ray.study.study import Study, tracking_uri

    if store:
        config = Study.from_folder(store.folder).config
        experiment = config.tracking.experiment or config.name
        return tracking_uri(config, store.folder), experiment
    uri = os.environ.get("MLFLOW_TRACKING_URI")
    if not uri:
        raise ValueError(
            "--register needs to know which MLflow, since a single trial has none of its own; set "
            "MLFLOW_TRACKING_URI, such as sqlite:///mlflow.db"
        )
    return uri, os.environ.get("MLFLOW_EXPERIMENT_NAME", "gam-ray")


@contextmanager
def _stream(file: Path | None) -> Iterator[TextIO]:
    """The file, or standard output."""
    if file is None:
        yield sys.stdout
        return
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("w", encoding="utf-8", newline="") as stream:
        yield stream


def _with_progress(predictor: Predictor, files: Sequence[ImageFile]) -> Iterator[Prediction]:
    from rich.progress import track

    predictions = predictor.predict(files)
    return iter(
        track(
            predictions,
            "predicting",
            total=len(files),
            console=err,
            transient=True,
            disable=not err.is_terminal,
        )
    )


def _tell(table: PredictionTable, count: int) -> None:
    """Say on standard error what came out, and what could not be read."""
    read = count - len(table.unreadable)
    for each in table.unreadable[:MOST_UNREADABLE]:
        _say_beside(f"not read: {each.file.path}: {each.reason}")
    if len(table.unreadable) > MOST_UNREADABLE:
        _say_beside(f"not read: {len(table.unreadable) - MOST_UNREADABLE} more")
    by_share = sorted(table.totals.items(), key=lambda item: -item[1])
    shares = ", ".join(f"{name} {100 * total / read:.1f} %" for name, total in by_share if total)
    _say_beside(f"{read} of {count} images predicted" + (f": {shares}" if shares else ""))


def _say_beside(line: str) -> None:
    err.print(line, markup=False, highlight=False, soft_wrap=True)
