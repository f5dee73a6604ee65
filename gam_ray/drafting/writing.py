"""A study file as people read it: settings, and beside them why they are so."""

from __future__ import annotations

import math
import re

import yaml

from gam_ray.domains.image_files import first_ten
from gam_ray.domains.survey import Survey
from gam_ray.drafting.folders import FolderPair
from gam_ray.drafting.plan import Plan

LONGEST_NAME = 80


def quoted(text: str) -> str:
    """A text as a YAML scalar on one line that is read as the same text, whatever is in it.

    Raises:
        ValueError: It is no Unicode, as the name of a file on Linux can be.
    """
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ValueError(
            f"A study file is Unicode, but {text!r} is not. Rename the folder."
        ) from error
    scalar: str = yaml.safe_dump(text, default_style='"', allow_unicode=True, width=math.inf)
    return scalar.strip()


def comment(text: str) -> str:
    """A text as one line of comment."""
    shown = (c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
    return f"# {''.join(shown)}".rstrip()


def study_name(source: str, target: str) -> str:
    """A study's name from those of its folders: ``photos-to-scans``."""
    letters = re.sub(r"[^A-Za-z0-9._-]+", "-", f"{source}-to-{target}")
    return letters.lstrip("._-")[:LONGEST_NAME].rstrip("-") or "study"


def study_text(pair: FolderPair, plan: Plan, name: str, command: str) -> str:
    """The whole file.

    Args:
        pair: The folders.
        plan: The settings.
        name: Of the study.
        command: What runs it.

    Raises:
        ValueError: The path of a folder is no Unicode.
    """
    lines = [
        comment(f"Written by gam-ray init. Change what you like, then: {command}"),
        *(comment(line) for line in ("", *_told("source", pair.source))),
        *(comment(line) for line in _told("target", pair.target)),
        *(comment(f"Note: {note}") for note in pair.notes),
        f"name: {quoted(name)}",
        *_trial(pair, plan),
        *_space(plan),
        *_study(plan),
    ]
    return "\n".join(lines) + "\n"


def _told(side: str, survey: Survey) -> list[str]:
    height, width = survey.median_size
    sizes = f"{height}×{width}"
    if len(survey.sizes) > 1:
        sizes = f"{len(survey.sizes)} sizes around {sizes}"
    low, high = survey.value_range
    lines = [
        f"{side}: {survey.folder}",
        f"  {survey.images} images, {sizes}, {', '.join(survey.modes)}, values {low}-{high}",
    ]
    if survey.class_names:
        unit = "images" if survey.problem == "classification" else "pixels"
        counts = (f"{name} {count}" for name, count in survey.by_class.items())
        lines.append(
            f"  {len(survey.class_names)} classes, by {unit}: {', '.join(first_ten(counts))}"
        )
    return lines


def _trial(pair: FolderPair, plan: Plan) -> list[str]:
    family, amounts = plan.family, plan.amounts
    height, width = plan.size
    changes = "{flip: true}" if plan.mirrors else "{rotate: 10, shift: 0.1, zoom: 0.1}"
    return [
        "trial:                                    # the same for all trials",
        "  task:",
        f"    source: {quoted(pair.source.domain)}",
        f"    target: {quoted(pair.target.domain)}",
        f"    network: {family.network}",
        f"    size: [{height}, {width}]                        # height and width, in pixels",
        "  pretraining:                            # of the source network: once, for all trials",
        *_weights(family.weights),
        f"    steps: {plan.pretraining_steps}",
        f"    batch_size: {amounts.batch_size}",
        f"    learning_rate: {family.learning_rate:.1e}",
        f"    schedule: {family.schedule}",
        f"    augmentation: {changes}",
        "  adaptation:                             # of the first trial; space replaces it",
        f"    layers: [{', '.join(family.first)}]",
        f"    weight: {family.weight:g}",
        f"  steps: {plan.steps}",
        f"  batch_size: {amounts.batch_size}",
        f"  report_every: {amounts.report_every}                       # steps",
    ]


def _weights(weights: str) -> list[str]:
    if weights == "random":
        return []
    return [f"    weights: {weights}                     # downloaded once; random: none"]


def _space(plan: Plan) -> list[str]:
    width = max(len(name) for name in plan.family.space) + 1
    searched = {
        "adaptation.layers": f"{{subset: [{', '.join(plan.family.layers)}], min: 1}}",
        **plan.family.space,
    }
    lines = [f"  {name + ':':<{width}} {values}" for name, values in searched.items()]
    return ["space:                                    # what is searched", *lines]


def _study(plan: Plan) -> list[str]:
    amounts = plan.amounts
    device = "a GPU" if amounts.gpus else "a CPU core"
    return [
        f"search: {{sampler: tpe, trials: {plan.trials}, seed: 0}}",
        "objective: {finalists: 2, seeds: 2}       # label-free; the two best run again",
        f"student: {{steps: {plan.steps}}}                     # learns what the best ones say",
        f"schedule: {{kind: asha, min_steps: {amounts.report_every}, reduction_factor: 2}}",
        comment(
            f"A trial has {amounts.gpus:g} of {device}."
            if amounts.gpus
            else f"A trial has {device}; as many run at a time as there are cores."
        ),
        f"resources: {{workers: 1, gpus_per_worker: {amounts.gpus:g}}}",
    ]
