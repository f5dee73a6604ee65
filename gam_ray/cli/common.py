"""What all commands share: options, exit codes, errors, the study that is meant."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from gam_ray.config.secrets import masked

if TYPE_CHECKING:
    from gam_ray.study.store import StudyStore

DONE, FAILED, INVALID, STOPPED, INTERRUPTED = 0, 1, 2, 3, 130

# How a study's process ends, by the state it leaves.
EXIT_CODES = {"finished": DONE, "failed": FAILED, "stopped": STOPPED, "interrupted": STOPPED}

# Lines of an error that are shown: one screen.
MOST_LINES = 40

out, err = Console(), Console(stderr=True)

StudyArgument = Annotated[
    str, typer.Argument(metavar="STUDY", help="A study's file, its folder, or its name.")
]
StorageOption = Annotated[
    str,
    typer.Option(help="Folder, or s3://BUCKET/PREFIX, that holds studies, where STUDY is a name."),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON on standard output.")]
DataOption = Annotated[
    Path | None,
    typer.Option(help="Folder of data sets; by default GAM_RAY_DATA, or data here."),
]
DashboardOption = Annotated[
    str | None,
    typer.Option(metavar="URL", help="A cluster's dashboard, such as http://head:8265."),
]
DebugOption = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")]


@contextmanager
def errors(*, debug: bool) -> Iterator[None]:
    """Turn errors into one screen of text and an exit code."""
    from gam_ray.study.errors import StudyError
    from gam_ray.training.reports import DivergedError

    try:
        yield
    except KeyboardInterrupt:
        err.print("interrupted; run the same command to go on")
        raise typer.Exit(INTERRUPTED) from None
    except (typer.Exit, typer.Abort):
        raise
    except Exception as error:  # whatever it is, the user gets one screen
        if debug:
            raise
        known = isinstance(error, ValueError | OSError | StudyError | DivergedError)
        failed = isinstance(error, StudyError | DivergedError) or not known
        _print_error(str(error) if known else f"{type(error).__name__}: {error}", known=known)
        raise typer.Exit(FAILED if failed else INVALID) from error


def _print_error(message: str, *, known: bool) -> None:
    lines = masked(message).splitlines()
    if len(lines) > MOST_LINES:
        lines[MOST_LINES:] = [f"... and {len(lines) - MOST_LINES} lines more (--debug)"]
    if not known:
        lines.append("this should not happen; --debug shows where it did")
    text = "error: " + "\n".join(lines)
    err.print(text, style="red", markup=False, highlight=False, soft_wrap=True)


def store_of(study: str, storage: str) -> StudyStore:
    """The store of a study given by file, folder or name."""
    from gam_ray.config import load_study_config
    from gam_ray.study.remote import store_at

    if is_study_file(study):
        config = load_study_config(study)
        return store_at(f"{config.storage.rstrip('/')}/{config.name}")
    is_folder = "://" in study or (Path(study) / "study.json").is_file()
    return store_at(study if is_folder else f"{storage.rstrip('/')}/{study}")


def is_study_file(study: str) -> bool:
    """Whether a study is given by its file."""
    path = Path(study)
    return path.suffix in {".yaml", ".yml"} and path.is_file()


def print_json(content: Any) -> None:
    """Print what a script may read, without passwords."""
    sys.stdout.write(masked(json.dumps(content, indent=2)) + "\n")


def say(line: str) -> None:
    """Print a line for people on standard output, without passwords and without wrapping."""
    out.print(masked(line), markup=False, highlight=False, soft_wrap=True)


def percent(accuracy: float | None) -> str:
    """An accuracy in [0, 1] as people read it."""
    return "-" if accuracy is None else f"{100 * accuracy:.1f}"


def duration(seconds: float) -> str:
    """Seconds as ``4:05 min`` or, from an hour on, ``3:04:05 h``."""
    minutes, rest = divmod(int(seconds), 60)
    if minutes < 60:
        return f"{minutes}:{rest:02d} min"
    return f"{minutes // 60}:{minutes % 60:02d}:{rest:02d} h"
