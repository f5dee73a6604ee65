"""Two folders of a user's own, a labelled source and a target, looked at together."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import get_args

from gam_ray.domains import Problem, load_domain
from gam_ray.domains.image_files import first_ten
from gam_ray.domains.image_folder import ImageFolder
from gam_ray.domains.segmentation import SegmentationDomain
from gam_ray.domains.survey import Survey, survey

KINDS: tuple[Problem, ...] = get_args(Problem)
# A class with fewer images than this can hardly be learned.
FEW_OF_A_CLASS = 10
FEW_IMAGES = 100
_LABEL_FOLDERS = frozenset({"labels", "masks"})
_DOMAINS: Mapping[Problem, str] = {
    "classification": "image-folder",
    "segmentation": "segmentation-folder",
}


@dataclass(frozen=True)
class FolderPair:
    """What the two folders hold.

    Attributes:
        source: Of the labelled folder.
        target: Of the other one.
        notes: What a user should know, a sentence each; nothing that stops a study.
    """

    source: Survey
    target: Survey
    notes: tuple[str, ...]


def look_at_folders(source: Path, target: Path, kind: str | None = None) -> FolderPair:
    """Look at every file of both folders.

    Args:
        source: Folder of labelled images.
        target: Folder of images; labels that it has become an oracle, and choose nothing.
        kind: ``classification`` or ``segmentation``; None to tell it from the source's folders.

    Raises:
        ValueError: Something does not go together or cannot be used. All that is wrong in both
            folders is said at once, each with its file and what to do.
    """
    source, target = (each.expanduser().absolute() for each in (source, target))
    problems = _same_folder(source, target)
    problem = _known_kind(kind) if kind else guess_kind(source)
    origin = _survey_source(problem, source, problems)
    classes = origin.class_names if origin else ()
    goal, notes = _survey_target(problem, target, classes, problems)
    if problems or origin is None or goal is None:
        raise ValueError("\n".join(problems))
    return FolderPair(origin, goal, (*notes, *_remarks(origin, goal)))


def guess_kind(source: Path) -> Problem:
    """Tell the kind of a study from the folders in its source.

    Raises:
        ValueError: It cannot be told.
    """
    parts = [each for each in (source, source / "train") if each.is_dir()]
    names = {name.name for part in parts for name in part.iterdir() if name.is_dir()}
    if "images" not in names:
        return "classification"
    if names & _LABEL_FOLDERS:
        return "segmentation"
    raise ValueError(
        f"{source} has a folder called images, but none called labels or masks, so it can be one "
        "class among others, or the images of a segmentation. Say which: --kind classification or "
        "--kind segmentation (whose labels are then in a folder called labels)."
    )


def _known_kind(kind: str) -> Problem:
    for known in KINDS:
        if kind == known:
            return known
    near = get_close_matches(kind, KINDS, n=1)
    hint = f"Did you mean {near[0]!r}? " if near else ""
    raise ValueError(f"There is no kind {kind!r}. {hint}Known: {', '.join(KINDS)}.")


def _same_folder(source: Path, target: Path) -> list[str]:
    if source.resolve() != target.resolve():
        return []
    return [f"Source and target are two folders, but both are {source}. Give another target."]


def _survey_source(problem: Problem, folder: Path, problems: list[str]) -> Survey | None:
    domain = _load(f"{_DOMAINS[problem]}:{folder}", problems)
    if domain is None:
        return None
    if not domain.class_names:
        remedy = {
            "classification": "Put the images into folders that are named after their classes.",
            "segmentation": "Put a label file for each image into a folder called labels.",
        }[problem]
        problems.append(f"A source has labels, but {folder} has none. {remedy}")
        return None
    return _looked_at(domain, problems)


def _survey_target(
    problem: Problem, folder: Path, classes: tuple[str, ...], problems: list[str]
) -> tuple[Survey | None, list[str]]:
    if problem == "classification" and folder.is_dir():
        domain, notes = _classification_target(folder, classes, problems)
    else:
        domain, notes = _load(f"{_DOMAINS[problem]}:{folder}", problems), []
    if domain is None:
        return None, notes
    if isinstance(domain, SegmentationDomain) and domain.class_names not in {(), classes}:
        problems.append(
            f"Source and target have the same classes in one order, but {folder}/classes.txt has "
            f"{', '.join(domain.class_names)} and the source's has {', '.join(classes)}. Make them "
            "agree, or move the target's labels elsewhere."
        )
    return _looked_at(domain, problems), notes


def _classification_target(
    folder: Path, classes: tuple[str, ...], problems: list[str]
) -> tuple[ImageFolder | SegmentationDomain | None, list[str]]:
    """The target, with labels where its folders are classes of the source, and without else."""
    refused: list[str] = []
    domain = _load(f"image-folder:{folder}", refused)
    own = domain.class_names if domain else ()
    unknown = sorted(set(own) - set(classes))
    if domain and (not own or not classes or not unknown):
        return domain, []
    if set(own) & set(classes):
        problems.append(
            f"The target's folders are classes of the source or none of them is, but {folder} has "
            f"{', '.join(_with_neighbours(unknown, classes))}. Rename these, or add them to the "
            "source; or put all images into one folder, for a target without labels."
        )
        return None, []
    unlabelled = _load(f"unlabelled-folder:{folder}", problems)
    note = f"The folders in {folder} are not taken as classes: its images count as unlabelled."
    return unlabelled, [note]


def _with_neighbours(names: list[str], known: tuple[str, ...]) -> list[str]:
    near = {name: get_close_matches(name, known, n=1) for name in names}
    return first_ten(
        f"{name!r} (did you mean {near[name][0]!r}?)" if near[name] else repr(name)
        for name in names
    )


def _load(name: str, problems: list[str]) -> ImageFolder | SegmentationDomain | None:
    """The domain of a folder; None, with the reason among `problems`, where there is none."""
    try:
        domain = load_domain(name)
    except (ValueError, OSError) as error:
        problems.append(str(error))
        return None
    assert isinstance(domain, ImageFolder | SegmentationDomain)
    return domain


def _looked_at(domain: ImageFolder | SegmentationDomain, problems: list[str]) -> Survey | None:
    try:
        found = survey(domain)
    except (ValueError, OSError) as error:
        problems.append(str(error))
        return None
    if found.faults:
        problems += [
            f"Of the files in {found.folder}, {len(found.faults)} cannot be used:",
            *(f"  {fault}" for fault in first_ten(found.faults)),
            "Get damaged ones again, convert those of more than 8 bits, or remove them.",
        ]
    elif found.value_range[1] <= 1:
        problems.append(
            f"Images are in 0-255, but the brightest value in {found.folder} is "
            f"{found.value_range[1]}: they look scaled to [0, 1]. Multiply them by 255."
        )
    return found


def _remarks(source: Survey, target: Survey) -> list[str]:
    notes = []
    if source.is_grey != target.is_grey:
        notes.append("One folder is grey and the other in colour: both are taken as colour.")
    missing = [name for name, count in target.by_class.items() if not count]
    missing += [name for name in source.class_names if name not in target.by_class]
    if target.class_names and missing:
        notes.append(
            f"The target has none of {', '.join(first_ten(missing))}. That is fine; Gaussian "
            "matching can be harmful then, which is why it is searched."
        )
    if source.problem == "classification":
        few = [f"{name} ({n})" for name, n in source.by_class.items() if n < FEW_OF_A_CLASS]
        if few:
            notes.append(f"These classes of the source have few images: {', '.join(few)}.")
    else:
        none = [name for name, count in source.by_class.items() if not count]
        if none:
            notes.append(f"No pixel of the source is of {', '.join(none)}.")
    notes += [
        f"{each.folder} has {each.images} images only: scores and choices will be noisy."
        for each in (source, target)
        if each.images < FEW_IMAGES
    ]
    if not target.class_names:
        notes.append("The target has no labels: there will be no oracle, and none is needed.")
    return notes
