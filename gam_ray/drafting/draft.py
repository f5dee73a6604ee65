"""A study file and a sample sheet, written whole or not at all."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gam_ray.config import ConfigError, load_study_config
from gam_ray.drafting.folders import FolderPair
from gam_ray.drafting.plan import Machine, Plan, plan_study
from gam_ray.drafting.sheet import save_sheet
from gam_ray.drafting.writing import study_name, study_text

SUFFIXES = (".yaml", ".yml")


@dataclass(frozen=True)
class Draft:
    """What was written.

    Attributes:
        study_file: The study file.
        sheet: The picture of samples beside it.
        name: The study's.
        plan: Its settings.
        pair: The folders.
    """

    study_file: Path
    sheet: Path
    name: str
    plan: Plan
    pair: FolderPair

    @property
    def command(self) -> str:
        """What runs the study."""
        return run_command(self.study_file)

    def to_mapping(self) -> dict[str, Any]:
        """The draft as plain JSON-like data."""
        plan = self.plan
        return {
            "study_file": str(self.study_file),
            "sample_sheet": str(self.sheet),
            "name": self.name,
            "source": self.pair.source.to_mapping(),
            "target": self.pair.target.to_mapping(),
            "notes": list(self.pair.notes),
            "network": plan.family.network,
            "size": list(plan.size),
            "trials": plan.trials,
            "command": self.command,
        }


def run_command(file: Path) -> str:
    """What runs a study file, for a shell."""
    # What begins with a dash would be an option.
    shown = f"./{file}" if str(file).startswith("-") else str(file)
    return f"gam-ray run {shlex.quote(shown)}"


def check_output(file: Path, *, force: bool) -> None:
    """Raise ValueError unless a study file, and its sheet, can be written at `file`."""
    if file.suffix not in SUFFIXES:
        raise ValueError(f"A study file's name ends in .yaml, but this is {file}. Rename it.")
    there = [str(each) for each in (file, _sheet_of(file)) if each.exists()]
    if there and not force:
        raise ValueError(
            f"Nothing is overwritten, but there is {' and '.join(there)} already. Give another "
            "--output, or --force to replace it."
        )
    if not file.absolute().parent.is_dir():
        raise ValueError(f"There is no folder {file.absolute().parent}. Make it first.")


def default_name(source: Path, target: Path) -> str:
    """The study's name, if none is given."""
    return study_name(source.absolute().name, target.absolute().name)


def draft_study(
    pair: FolderPair,
    file: Path,
    *,
    name: str | None = None,
    trials: int | None = None,
    machine: Machine | None = None,
    force: bool = False,
) -> Draft:
    """Write a study file that runs as it is, and a sample sheet beside it.

    Args:
        pair: The folders.
        file: Where the study file goes; the sheet gets its name, and the suffix png.
        name: Of the study; None is made of the folders' names.
        trials: Of the search; None for what suits the machine.
        machine: What the study runs on; None is this machine.
        force: Whether files that are there are replaced.

    Raises:
        ValueError: A file is there, the name does not fit, or a path is no Unicode.
        OSError: A file cannot be written.
    """
    check_output(file, force=force)
    plan = plan_study(pair, machine or Machine.this(), trials=trials)
    name = name or default_name(pair.source.folder, pair.target.folder)
    text = study_text(pair, plan, name, run_command(file))
    _write_whole(file, lambda part: _write_study(text, part))
    _write_whole(_sheet_of(file), lambda part: save_sheet(pair, part))
    return Draft(file, _sheet_of(file), name, plan, pair)


def _sheet_of(file: Path) -> Path:
    return file.with_suffix(".png")


def _write_study(text: str, file: Path) -> None:
    file.write_text(text, encoding="utf-8")
    try:
        load_study_config(file)
    except ConfigError as error:  # of what the caller chose: the file is not there for anyone
        told = [f"{each.path}: {each.message}" for each in error.problems]
        raise ValueError("\n".join(told)) from None


def _write_whole(file: Path, write: Callable[[Path], None]) -> None:
    """Write beside `file` first, so that what is there stays if anything fails."""
    part = file.with_name(f".{file.name}.part")
    try:
        write(part)
        part.replace(file)
    finally:
        part.unlink(missing_ok=True)
