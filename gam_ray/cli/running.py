"""Run studies and trials from this process."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from contextlib import redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from gam_ray.cli.choosing import print_choice
from gam_ray.cli.common import (
    STOPPED,
    DashboardOption,
    DataOption,
    DebugOption,
    JsonOption,
    StorageOption,
    StudyArgument,
    err,
    errors,
    out,
    percent,
    print_json,
    store_of,
)

if TYPE_CHECKING:
    from gam_ray.study.study import Study

RayOption = Annotated[
    str | None,
    typer.Option(help="A Ray cluster that this machine is part of; by default Ray starts here."),
]


def run(
    study: Annotated[Path, typer.Argument(metavar="STUDY.yaml", help="The study file.")],
    data_root: DataOption = None,
    address: RayOption = None,
    *,
    as_json: JsonOption = False,
    debug: DebugOption = False,
) -> None:
    """Run a study to its end, or take up one that was interrupted.

    Example: `gam-ray run jobs/quickstart.yaml`
    """
    with errors(debug=debug):
        from gam_ray.study.study import Study

        _refuse_dashboard(address, f"gam-ray submit {study} --address {address}")
        run_to_end(Study.load(study, data_root=data_root), address, as_json=as_json)


def train(
    trial: Annotated[Path, typer.Argument(metavar="TRIAL.yaml", help="The trial file.")],
    folder: Annotated[
        Path | None, typer.Option(help="Where its files go; by default trials/KEY here.")
    ] = None,
    data_root: DataOption = None,
    *,
    as_json: JsonOption = False,
    debug: DebugOption = False,
) -> None:
    """Run one configuration, without a search, in this process; goes on where it was cut off.

    Example: `gam-ray train jobs/trial.yaml`
    """
    with errors(debug=debug):
        from gam_ray.training.single import Trial

        result = Trial.load(trial, data_root=data_root).run(folder=folder, tell=_teller(err))
        if as_json:
            print_json(result)
            return
        for name, value in result["scores"].items():
            out.print(f"{name:<28} {value:.4f}")
        oracle = result["oracle"]
        out.print(f"{'oracle (target test)':<28} {percent((oracle or {}).get('test'))}")
        out.print(f"{'checkpoint':<28} {result['checkpoint']}", soft_wrap=True)


def resume(
    study: StudyArgument,
    storage: StorageOption = "studies",
    address: DashboardOption = None,
    data_root: DataOption = None,
    *,
    as_json: JsonOption = False,
    debug: DebugOption = False,
) -> None:
    """Go on with a study that was stopped, interrupted or failed, by what its folder holds.

    With the address of a dashboard (http://…) a job of the cluster does it, as with `submit`;
    with any other address this process does, on that cluster.

    Example: `gam-ray resume quickstart`
    """
    with errors(debug=debug):
        from gam_ray.cli.cluster import is_dashboard, submit_study
        from gam_ray.study import results
        from gam_ray.study.study import Study

        store = store_of(study, storage)
        state = results.status(store)["state"]
        if state == "running":
            held = store.read("state") or {}
            raise ValueError(
                f"the study in {store.address} is running, on {held.get('host')} as process "
                f"{held.get('pid')}; `gam-ray stop` ends it in order"
            )
        # Its copy of the settings, not the file that it once came from.
        loaded = Study.from_folder(store.folder, data_root=data_root)
        if is_dashboard(address):
            submit_study(loaded.config, address, data_root, as_json=as_json)
            return
        run_to_end(loaded, address, as_json=as_json)


def run_to_end(study: Study, address: str | None, *, as_json: bool) -> None:
    """Run a study here, show its progress, keep its log, and print its choice.

    Raises:
        typer.Exit: With code 3 if the study was asked to stop and can be resumed.
    """
    from gam_ray.progress import ProgressDisplay, study_log
    from gam_ray.study.errors import StudyStoppedError
    from gam_ray.study.jobs import use_token

    if address:
        use_token()
    planned = study.config.planned_trials
    try:
        with (
            study.on_storage(),
            study_log(study.store.folder / "study.log") as log,
            ProgressDisplay(err, planned=planned, log=log) as display,
            redirect_stdout(sys.stderr),  # Ray tells on it of nodes that died
        ):
            choice = study.run(address=address, listener=display)
    except StudyStoppedError as stop:
        err.print(
            f"stopped: {stop}; `gam-ray resume {study.store.address}` goes on, and `gam-ray best` "
            "shows the choice so far",
            markup=False, highlight=False, soft_wrap=True,
        )  # fmt: skip
        raise typer.Exit(STOPPED) from None
    print_choice(study.store, choice, as_json=as_json)


def _refuse_dashboard(address: str | None, instead: str) -> None:
    from gam_ray.cli.cluster import is_dashboard

    if is_dashboard(address):
        raise ValueError(
            f"{address} is a dashboard, but a study runs on Ray itself, such as auto or "
            f"head:6379; to send it there as a job: {instead}"
        )


def _teller(console: Console, every_s: float = 2.0) -> Callable[[str], None]:
    """A printer of progress lines, at most one every few seconds."""
    last = 0.0

    def tell(line: str) -> None:
        nonlocal last
        if time.monotonic() - last >= every_s:
            last = time.monotonic()
            console.print(line, highlight=False)

    return tell
