"""From two folders of images to a study file: init."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from gam_ray.cli.common import DebugOption, JsonOption, errors, print_json, say

if TYPE_CHECKING:
    from gam_ray.domains.survey import Survey
    from gam_ray.drafting import Draft

MOST_CLASSES = 20


def init(
    folder: Annotated[
        Path,
        typer.Argument(
            metavar="[FOLDER]",
            help="Where the study file goes; its folders source and target are the defaults.",
        ),
    ] = Path(),
    *,
    source: Annotated[
        Path | None,
        typer.Option(help="Labelled images: a folder a class, or images and labels."),
    ] = None,
    target: Annotated[
        Path | None, typer.Option(help="The images to adapt to; labels are not needed.")
    ] = None,
    name: Annotated[
        str | None, typer.Option(help="The study's name; by default made of the folders'.")
    ] = None,
    kind: Annotated[
        str | None,
        typer.Option(help="classification or segmentation; by default told from the source."),
    ] = None,
    output: Annotated[
        Path, typer.Option(help="The study file, from FOLDER; a sheet of samples goes beside it.")
    ] = Path("study.yaml"),
    trials: Annotated[
        int | None,
        typer.Option(min=1, help="Trials of the search; by default what suits this machine."),
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Ask nothing.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Replace files that are there.")] = False,
    as_json: JsonOption = False,
    debug: DebugOption = False,
) -> None:
    """Look at two folders of your own images, and write a study file that runs as it is.

    Asks for what is not given, if there is a terminal. Every image is looked at, and all that is
    wrong is said at once.

    Example: `gam-ray init --source photos --target scans`
    """
    with errors(debug=debug):
        from gam_ray.drafting import check_output, default_name, draft_study, look_at_folders

        file = folder / output
        check_output(file, force=force)
        asks = not (yes or as_json) and _is_terminal()
        source, target = _folders(folder, source, target, asks=asks)
        if asks and name is None:
            name = typer.prompt("Name of the study", default=default_name(source, target))
        pair = look_at_folders(source, target, kind)
        draft = draft_study(pair, file, name=name, trials=trials, force=force)
        if as_json:
            print_json(draft.to_mapping())
        else:
            _tell(draft)


def _is_terminal() -> bool:
    return sys.stdin.isatty()


def _folders(
    folder: Path, source: Path | None, target: Path | None, *, asks: bool
) -> tuple[Path, Path]:
    """Both folders: as given, as the user answers, or FOLDER/source and FOLDER/target."""
    questions = {"source": "Folder of labelled images", "target": "Folder of the target's images"}
    found, missing = {"source": source, "target": target}, []
    for side, question in questions.items():
        default = folder / side
        if found[side] is not None:
            continue
        if asks:
            shown = str(default) if default.is_dir() else None
            found[side] = Path(typer.prompt(question, default=shown))
        elif default.is_dir():
            found[side] = default
        else:
            missing.append(f"there is no folder {default}; give the {side}'s with --{side}")
    if missing:
        raise ValueError("\n".join(missing))
    return Path(str(found["source"])), Path(str(found["target"]))


def _tell(draft: Draft) -> None:
    for side, survey in (("source", draft.pair.source), ("target", draft.pair.target)):
        for line in _told(side, survey):
            say(line)
    for note in draft.pair.notes:
        say(f"note: {note}")
    height, width = draft.plan.size
    say(f"network     {draft.plan.family.network} at {height}×{width}, {draft.plan.trials} trials")
    say(f"samples     {draft.sheet}")
    say(f"study       {draft.study_file}")
    say(f"next        {draft.command}")


def _told(side: str, survey: Survey) -> list[str]:
    height, width = survey.median_size
    sizes = f"{height}×{width}" if len(survey.sizes) == 1 else f"{len(survey.sizes)} sizes"
    low, high = survey.value_range
    modes = ", ".join(f"{count} {mode}" for mode, count in survey.modes.items())
    lines = [f"{side:<11} {survey.images} images, {sizes}; {modes}; values {low}-{high}"]
    most = max(survey.by_class.values(), default=0)
    lines += [
        f"{'':<11} {class_name:<20.20} {count:>9} {'█' * round(24 * count / max(most, 1))}"
        for class_name, count in list(survey.by_class.items())[:MOST_CLASSES]
    ]
    more = len(survey.by_class) - MOST_CLASSES
    return [*lines, f"{'':<11} and {more} classes more"] if more > 0 else lines
