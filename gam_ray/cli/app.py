"""The application: all commands, the version, and the help."""

from __future__ import annotations

import logging
from typing import Annotated

import typer

from gam_ray.cli import choosing, cluster, exporting, running, starting, watching
from gam_ray.cli.common import out
from gam_ray.study.versions import installed_version

app = typer.Typer(
    name="gam-ray",
    help="Adapt a network to an unlabelled domain, and choose its settings without target labels.",
    epilog="Exit codes: 0 done; 1 failed; 2 the input is not right; 3 stopped, and can be "
    "resumed; 130 interrupted. `--install-completion` completes commands and options in your "
    "shell.",
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
)
START, RUN, WATCH, CHOOSE, USE = "Start", "Run", "Watch and stop", "Choose", "Use"
for _command, _panel in (
    (starting.init, START),
    (running.run, RUN),
    (running.train, RUN),
    (cluster.submit, RUN),
    (running.resume, RUN),
    (cluster.doctor, RUN),
    (watching.status, WATCH),
    (watching.list_studies, WATCH),
    (cluster.logs, WATCH),
    (cluster.stop, WATCH),
    (choosing.best, CHOOSE),
    (choosing.report, CHOOSE),
    (choosing.ui, CHOOSE),
    (exporting.export, USE),
    (exporting.predict, USE),
):
    app.command("list" if _command is watching.list_studies else None, rich_help_panel=_panel)(
        _command
    )


@app.callback(invoke_without_command=True)
def _options(
    context: typer.Context,
    *,
    show_version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
) -> None:
    if show_version:
        out.print(f"gam-ray {installed_version()}")
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
