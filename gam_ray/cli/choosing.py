"""What a study chose: its best trial, its page, and its runs in MLflow."""

from __future__ import annotations

import os
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from gam_ray.cli.common import (
    DataOption,
    DebugOption,
    JsonOption,
    StorageOption,
    StudyArgument,
    errors,
    out,
    percent,
    print_json,
    say,
    store_of,
)

if TYPE_CHECKING:
    from gam_ray.study.store import StudyStore


def best(
    study: StudyArgument,
    storage: StorageOption = "studies",
    *,
    as_json: JsonOption = False,
    debug: DebugOption = False,
) -> None:
    """Show the trial that the label-free score chooses.

    Example: `gam-ray best quickstart --json`
    """
    with errors(debug=debug):
        from gam_ray.study import results

        store = store_of(study, storage)
        choice = results.best(store)
        store.fetch(Path(choice["checkpoint"]))
        print_choice(store, choice, as_json=as_json)


def report(
    study: StudyArgument,
    storage: StorageOption = "studies",
    output: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="The page; by default report.html in the study's folder, or here."
        ),
    ] = None,
    data_root: DataOption = None,
    *,
    open_page: Annotated[bool, typer.Option("--open", help="Show it in a browser.")] = False,
    as_json: JsonOption = False,
    debug: DebugOption = False,
) -> None:
    """Write one HTML page about a study in any state: its answer, how far to trust it, and why.

    Example: `gam-ray report quickstart --open`
    """
    with errors(debug=debug):
        from gam_ray.study.reporting import write_report

        store = store_of(study, storage)
        is_here = store.address == str(store.folder)  # and no copy of a bucket's
        file = (output or (store.page if is_here else Path(store.page.name))).absolute()
        facts = write_report(store, file, data_root=data_root)
        if as_json:
            print_json({"file": str(file), "bytes": file.stat().st_size, **asdict(facts)})
        else:
            say(f"report  {file}")
        if open_page:
            import webbrowser

            webbrowser.open(file.as_uri())


def ui(
    study: StudyArgument,
    storage: StorageOption = "studies",
    port: Annotated[int, typer.Option(help="Port of the MLflow server.")] = 5000,
    *,
    debug: DebugOption = False,
) -> None:
    """Open the MLflow server of a study that is tracked in its own folder.

    Example: `gam-ray ui quickstart`, then http://127.0.0.1:5000 in a browser.
    """
    with errors(debug=debug):
        from gam_ray.config import StudyConfig
        from gam_ray.study.study import runs_view, tracking_uri
        from gam_ray.tracking import read_status

        store = store_of(study, storage)
        content = store.read("study")
        if content is None:
            raise ValueError(f"no study {study!r}; give its folder, its name or its file")
        config = StudyConfig.from_mapping(content["config"])
        uri = tracking_uri(config, store.folder)
        table = runs_view(config).path(read_status(store.tracking).experiment_id)
        if uri.startswith("http"):
            say(f"the study is tracked at {uri.rstrip('/')}{table}")
            return
        say(f"MLflow at http://127.0.0.1:{port}{table} (Ctrl+C ends it)")
        os.environ.setdefault("MLFLOW_SERVER_ENABLE_JOB_EXECUTION", "false")  # 8 processes less
        server = [sys.executable, "-m", "mlflow", "server", "--backend-store-uri", uri]
        os.execv(  # noqa: S606 - no shell; the user's own arguments
            sys.executable, [*server, "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
        )


def print_choice(store: StudyStore, choice: dict[str, Any], *, as_json: bool) -> None:
    """Print what `results.best` gives."""
    if as_json:
        print_json(choice)
        return
    out.print(_choice_table(choice))
    if not choice["adapt"]:
        from gam_ray.study.results import DO_NOT_ADAPT

        out.print(DO_NOT_ADAPT)
    for line in _how_far_to_trust(choice):
        out.print(line, highlight=False, soft_wrap=True)
    for each in choice["distrusted"]:
        out.print(f"left out    {each['name']}: {'; '.join(each['causes'])}", highlight=False)
    for line in choice["constraints"]["without_effect"]:
        out.print(f"warning     {line}", soft_wrap=True, highlight=False)
    out.print(f"checkpoint  {choice['checkpoint']}", soft_wrap=True, highlight=False)
    out.print(f"study       {store.address}", soft_wrap=True, highlight=False)
    if store.page.exists():
        out.print(f"report      {store.page}", soft_wrap=True, highlight=False)
    out.print(f"MLflow      gam-ray ui {_shown(store)}", soft_wrap=True, highlight=False)


def _choice_table(choice: dict[str, Any]) -> Table:
    score, before = choice["score"], choice["no_adaptation"]
    by_oracle = choice["by_oracle"]
    how = "BY TARGET LABELS (score: oracle)" if by_oracle else "without target labels"
    table = Table(title=f"{choice['study']}: chosen {how}", title_justify="left")
    table.add_column("trial")
    kind = "TARGET LABELS" if by_oracle else "label-free"
    table.add_column(f"{score['name']} ({kind})", justify="right")
    table.add_column("oracle: target test accuracy %", justify="right")
    rows = [("no adaptation", before["score"], before["oracle"])]
    rows.append((f"chosen: {choice['trial']['name']}", score["value"], choice["oracle"]))
    for name, value, oracle in rows:
        shown = "-" if value is None else f"{value:.3f}"
        table.add_row(name, shown, percent((oracle or {}).get("test")))
    return table


def _how_far_to_trust(choice: dict[str, Any]) -> list[str]:
    """What is known of the choice: its rank, its spread, the score's record, the regret."""
    score, seeds, known = choice["score"], choice["seeds"], choice["reliability"]
    lines = [f"rank        scores higher than {score['percentile']:.0f} % of the trusted trials"]
    if seeds["std"] is not None:
        oracle = (seeds["oracle"] or {}).get("test")
        labels = f"; oracle {_spread(oracle, 100, 1)} %" if oracle else ""
        runs = len(seeds["runs"])
        lines.append(f"seeds       {_spread(seeds, 1, 3)} over {runs} runs of its settings{labels}")
    if known:
        lines.append(
            f"reliability on {known['tasks']:.0f} tasks with known labels its choice was "
            f"{known['mean_regret']:.1f} points below the best trial, at worst "
            f"{known['worst_regret']:.1f}"
        )
    if choice["regret"] and "test" in choice["regret"]:
        points = 100 * choice["regret"]["test"]
        lines.append(f"regret      {points:.1f} points below this study's best trial by the oracle")
    return lines


def _spread(figure: dict[str, Any], scale: float, digits: int) -> str:
    return f"{scale * figure['mean']:.{digits}f} ± {scale * figure['std']:.{digits}f}"


def _shown(store: StudyStore) -> str:
    """A study as a command here would name it."""
    folder = store.folder
    if store.address != str(folder):
        return store.address
    return str(folder.relative_to(Path.cwd()) if folder.is_relative_to(Path.cwd()) else folder)
