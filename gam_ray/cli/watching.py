"""Where studies are: status and list."""

from __future__ import annotations

import time
from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.live import Live
from rich.table import Table
from rich.text import Text

from gam_ray.cli.cluster import jobs_on
from gam_ray.cli.common import (
    DONE,
    EXIT_CODES,
    FAILED,
    DashboardOption,
    DebugOption,
    JsonOption,
    StorageOption,
    StudyArgument,
    duration,
    errors,
    out,
    print_json,
    say,
    store_of,
)
from gam_ray.config.secrets import masked

if TYPE_CHECKING:
    from gam_ray.study.store import StudyStore

EVERY_S = 2.0
OVER = ("finished", "pruned", "failed")


def status(
    study: StudyArgument,
    storage: StorageOption = "studies",
    *,
    watch: Annotated[
        bool, typer.Option("--watch", help="Until the study ends; ends as the study does.")
    ] = False,
    as_json: JsonOption = False,
    debug: DebugOption = False,
) -> None:
    """Say where a study is, from any machine that sees its folder.

    With --watch a terminal is kept up to date, and what is no terminal gets the end alone; the
    exit code then is the study's: 0 finished, 1 failed, 3 stopped or interrupted.

    Example: `gam-ray status quickstart --watch`
    """
    with errors(debug=debug):
        from gam_ray.study import results

        store = store_of(study, storage)
        state = _watched(store, live=not as_json) if watch else results.status(store)
        if as_json:
            print_json(state)
        else:
            for line in status_lines(state):
                say(line)
        code = EXIT_CODES.get(state["state"], FAILED) if watch else DONE
        if code:
            raise typer.Exit(code)


def list_studies(
    storage: StorageOption = "studies",
    address: DashboardOption = None,
    *,
    as_json: JsonOption = False,
    debug: DebugOption = False,
) -> None:
    """List the studies in a folder, or those that are jobs of a cluster.

    Example: `gam-ray list --storage studies`
    """
    with errors(debug=debug):
        if address:
            content = jobs_on(address)
        else:
            from gam_ray.study import remote, results

            content = {"studies": results.all_studies(remote.studies_at(storage))}
        if as_json:
            print_json(content)
            return
        (rows,) = content.values()
        if not rows:
            say(f"no studies {f'on {address}' if address else f'in {storage}'}")
            return
        out.print(_job_table(rows) if address else _study_table(rows))


def status_lines(state: dict[str, Any]) -> list[str]:
    """The status of a study as people read it."""
    counts = ", ".join(f"{count} {name}" for name, count in state["trials"].items() if count)
    word = "for" if state["state"] == "running" else "after"
    lines = [f"{state['study']}: {state['state']} {word} {duration(state['elapsed_s'])}; {counts}"]
    if state["error"]:
        lines.append(state["error"])
    if state["best"]:
        score = state["best"]["score"]
        lines.append(f"best so far: {state['best']['trial']}, {score['name']} {score['value']:.3f}")
    return lines + _tracking_lines(state["tracking"])


def _tracking_lines(tracking: dict[str, Any]) -> list[str]:
    """What MLflow does not have, if there is something to say."""
    lines = []
    if tracking["waiting"] and tracking["failing"]:
        lines.append(f"MLflow: {tracking['waiting']} records wait ({tracking['last_error']})")
    if tracking["rejected"]:
        lines.append(
            f"MLflow: {tracking['rejected']} records were refused, the last one because "
            f"{tracking['last_rejection']}"
        )
    return lines


def _watched(store: StudyStore, *, live: bool) -> dict[str, Any]:
    """The status of a study once it is no longer running; until then it is shown, if live."""
    from gam_ray.study import results

    state = results.status(store)
    with Live(console=out, refresh_per_second=2, transient=True) as shown:
        while state["state"] == "running":
            if live and out.is_terminal:
                shown.update(Text("\n".join([_bar(state), *map(masked, status_lines(state))])))
            time.sleep(EVERY_S)
            state = results.status(store)
    return state


def _bar(state: dict[str, Any], width: int = 40) -> str:
    done, total = _progress(state["trials"])
    full = round(width * done / total) if total else 0
    return f"{'━' * full}{'─' * (width - full)} {done}/{total} trials"


def _progress(trials: dict[str, int]) -> tuple[int, int]:
    """(over, in all) of the counts of a study's trials."""
    return sum(trials[name] for name in OVER), sum(trials.values())


def _study_table(studies: list[dict[str, Any]]) -> Table:
    table = _table("study", "state", "trials", "best score", "started")
    for study in studies:
        if study["error"] and study["trials"] is None:
            table.add_row(study["study"], Text(study["state"], style="red"), "", "", "")
            continue
        done, total = _progress(study["trials"])
        best = study["best"]
        score = f"{best['score']['value']:.3f} ({best['score']['name']})" if best else "-"
        table.add_row(
            study["study"], study["state"], f"{done}/{total}", score, _when(study["started"])
        )
    return table


def _job_table(jobs: list[dict[str, Any]]) -> Table:
    table = _table("study", "job", "state", "started", "folder")
    for job in jobs:
        table.add_row(
            job["study"], job["job"], job["state"], _when(job["started"]), masked(job["folder"])
        )
    return table


def _table(*columns: str) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0))
    for column in columns:
        table.add_column(column, overflow="fold")
    return table


def _when(seconds: float | None) -> str:
    if seconds is None:
        return "-"
    return datetime.fromtimestamp(seconds).astimezone().strftime("%Y-%m-%d %H:%M")
