"""The command line: one short function a command.

Exit codes: 0 done; 1 the study or trial failed; 2 the input is not right; 130 interrupted.
"""

from __future__ import annotations

import json
import logging
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

if TYPE_CHECKING:
    from gam_ray.study.store import StudyStore

FAILED, INVALID, INTERRUPTED = 1, 2, 130

app = typer.Typer(
    name="gam-ray",
    help="Adapt a network to an unlabelled domain, and choose its settings without target labels.",
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
)
out, err = Console(), Console(stderr=True)

StudyArgument = Annotated[
    str, typer.Argument(metavar="STUDY", help="A study's file, its folder, or its name.")
]
StorageOption = Annotated[
    Path, typer.Option(help="Folder that holds studies, where STUDY is a name.")
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON on standard output.")]
DataOption = Annotated[
    Path | None,
    typer.Option(help="Folder of data sets; by default GAM_RAY_DATA, or data here."),
]
DebugOption = Annotated[bool, typer.Option(help="Show the traceback of an error.")]


@app.command()
def run(
    study: Annotated[Path, typer.Argument(metavar="STUDY.yaml", help="The study file.")],
    data_root: DataOption = None,
    address: Annotated[
        str | None, typer.Option(help="A Ray cluster; by default Ray starts here.")
    ] = None,
    *,
    as_json: JsonOption = False,
    debug: DebugOption = False,
) -> None:
    """Run a study to its end, or take up one that was interrupted.

    Example: `gam-ray run jobs/quickstart.yaml`
    """
    from gam_ray.progress import ProgressDisplay

    with _errors(debug=debug):
        from gam_ray.study.study import Study

        loaded = Study.load(study, data_root=data_root)
        with ProgressDisplay(err, planned=loaded.config.planned_trials) as display:
            choice = loaded.run(address=address, listener=display)
        _print_choice(loaded.store, choice, as_json=as_json)


@app.command()
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
    with _errors(debug=debug):
        from gam_ray.training.single import train_one

        result = train_one(trial, folder=folder, data_root=data_root, tell=_teller(err))
        if as_json:
            _print_json(result)
            return
        for name, value in result["scores"].items():
            out.print(f"{name:<28} {value:.4f}")
        oracle = result["oracle"]
        out.print(f"{'oracle (target test)':<28} {_percent((oracle or {}).get('test'))}")
        out.print(f"{'checkpoint':<28} {result['checkpoint']}", soft_wrap=True)


@app.command()
def status(
    study: StudyArgument,
    storage: StorageOption = Path("studies"),
    *,
    as_json: JsonOption = False,
    debug: DebugOption = False,
) -> None:
    """Say where a study is.

    Example: `gam-ray status quickstart --json`
    """
    with _errors(debug=debug):
        from gam_ray.study import results

        state = results.status(_store(study, storage))
        if as_json:
            _print_json(state)
            return
        counts = ", ".join(f"{count} {name}" for name, count in state["trials"].items() if count)
        out.print(
            f"{state['study']}: {state['state']} for {_minutes(state['elapsed_s'])}; {counts}"
        )
        if state["error"]:
            out.print(state["error"])
        if state["best"]:
            score = state["best"]["score"]
            out.print(
                f"best so far: {state['best']['trial']}, {score['name']} {score['value']:.3f}"
            )


@app.command()
def best(
    study: StudyArgument,
    storage: StorageOption = Path("studies"),
    *,
    as_json: JsonOption = False,
    debug: DebugOption = False,
) -> None:
    """Show the trial that the label-free score chooses.

    Example: `gam-ray best quickstart --json`
    """
    with _errors(debug=debug):
        from gam_ray.study import results

        store = _store(study, storage)
        _print_choice(store, results.best(store), as_json=as_json)


@app.command()
def ui(
    study: StudyArgument,
    storage: StorageOption = Path("studies"),
    port: Annotated[int, typer.Option(help="Port of the MLflow server.")] = 5000,
    *,
    debug: DebugOption = False,
) -> None:
    """Open the MLflow server of a study that is tracked in its own folder.

    Example: `gam-ray ui quickstart`, then http://127.0.0.1:5000 in a browser.
    """
    with _errors(debug=debug):
        from gam_ray.config import StudyConfig
        from gam_ray.study.study import tracking_uri

        store = _store(study, storage)
        content = store.read("study")
        if content is None:
            raise ValueError(f"no study {study!r}; give its folder, its name or its file")
        uri = tracking_uri(StudyConfig.from_mapping(content["config"]), store.folder)
        if uri.startswith("http"):
            out.print(f"the study is tracked at {uri}")
            return
        out.print(f"MLflow at http://127.0.0.1:{port} (Ctrl+C ends it)")
        os.environ.setdefault("MLFLOW_SERVER_ENABLE_JOB_EXECUTION", "false")  # 8 processes less
        server = [sys.executable, "-m", "mlflow", "server", "--backend-store-uri", uri]
        os.execv(  # noqa: S606 - no shell; the user's own arguments
            sys.executable, [*server, "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
        )


@app.callback(invoke_without_command=True)
def _options(
    context: typer.Context,
    *,
    show_version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
) -> None:
    if show_version:
        out.print(f"gam-ray {version('gam-ray')}")
        raise typer.Exit
    if context.invoked_subcommand is None:
        out.print(context.get_help())


def main() -> None:
    """Entry point of `gam-ray`."""
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s")
    # What was loaded or is downloaded: sizes, classes, weights.
    for room in ("domains", "networks"):
        logging.getLogger(f"gam_ray.{room}").setLevel(logging.INFO)
    app()


@contextmanager
def _errors(*, debug: bool) -> Iterator[None]:
    """Turn errors into one screen of text and an exit code."""
    from gam_ray.study.errors import StudyError
    from gam_ray.training.reports import DivergedError

    try:
        yield
    except KeyboardInterrupt:
        err.print("interrupted; run the same command to go on")
        raise typer.Exit(INTERRUPTED) from None
    except (ValueError, OSError, StudyError, DivergedError) as error:
        if debug:
            raise
        err.print(f"error: {error}", style="red", markup=False, highlight=False, soft_wrap=True)
        failed = isinstance(error, StudyError | DivergedError)
        raise typer.Exit(FAILED if failed else INVALID) from error


def _store(study: str, storage: Path) -> StudyStore:
    """The store of a study given by file, folder or name."""
    from gam_ray.config import load_study_config
    from gam_ray.study.store import StudyStore

    path = Path(study)
    if path.suffix in {".yaml", ".yml"} and path.is_file():
        return StudyStore(load_study_config(path).folder)
    return StudyStore((path if (path / "study.json").is_file() else storage / study).absolute())


def _print_choice(store: StudyStore, choice: dict[str, Any], *, as_json: bool) -> None:
    if as_json:
        _print_json(choice)
        return
    out.print(_choice_table(choice))
    if not choice["adapt"]:
        from gam_ray.study.results import DO_NOT_ADAPT

        out.print(DO_NOT_ADAPT)
    for line in _how_far_to_trust(choice):
        out.print(line, highlight=False, soft_wrap=True)
    for each in choice["distrusted"]:
        out.print(f"left out    {each['name']}: {'; '.join(each['causes'])}", highlight=False)
    out.print(f"checkpoint  {choice['checkpoint']}", soft_wrap=True, highlight=False)
    out.print(f"study       {store.folder}", soft_wrap=True, highlight=False)
    out.print(f"MLflow      gam-ray ui {_shown(store.folder)}", soft_wrap=True, highlight=False)


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
        table.add_row(name, shown, _percent((oracle or {}).get("test")))
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


def _shown(folder: Path) -> str:
    """A folder as a command here would name it."""
    return str(folder.relative_to(Path.cwd()) if folder.is_relative_to(Path.cwd()) else folder)


def _percent(accuracy: float | None) -> str:
    return "-" if accuracy is None else f"{100 * accuracy:.1f}"


def _minutes(seconds: float) -> str:
    return f"{int(seconds) // 60}:{int(seconds) % 60:02d} min"


def _print_json(content: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(content, indent=2) + "\n")


def _teller(console: Console, every_s: float = 2.0) -> Callable[[str], None]:
    """A printer of progress lines, at most one every few seconds."""
    last = 0.0

    def tell(line: str) -> None:
        nonlocal last
        if time.monotonic() - last >= every_s:
            last = time.monotonic()
            console.print(line, highlight=False)

    return tell
