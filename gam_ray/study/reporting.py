"""The page of a study, from its folder: gathers what it tells, and writes it.

Drawn of a study in any state. The target's images are shown where they are at hand.
"""

from __future__ import annotations

import json
import logging
import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gam_ray.config import (
    ChoiceParameter,
    SearchSpace,
    StudyConfig,
    SubsetParameter,
    TaskConfig,
    filled_up,
)
from gam_ray.config.secrets import masked
from gam_ray.config.space import Parameter, RangeParameter
from gam_ray.export.colours import class_colours
from gam_ray.report.facts import (
    Changes,
    ClassColour,
    ClassQuality,
    Cost,
    OracleFacts,
    Picture,
    Pictures,
    Question,
    Remark,
    StudyFacts,
    TrialFacts,
)
from gam_ray.report.images import beside, data_uri
from gam_ray.report.page import draw_charts, render_page
from gam_ray.report.plots import write_plots
from gam_ray.report.sheets import coloured
from gam_ray.study import results
from gam_ray.study.choosing import Ended, ended_trials
from gam_ray.study.importance import parameter_importance
from gam_ray.study.opinions import Opinions, changes, class_accuracy, read_opinions
from gam_ray.study.remarks import remarks
from gam_ray.study.reproduction import reproduction
from gam_ray.study.store import WITH_SETTINGS, EndRecord, StudyStore, TrialRecord
from gam_ray.tracking import without_credentials
from gam_ray.tracking.files import replace_text
from gam_ray.training.exhibits import Exhibits

logger = logging.getLogger(__name__)

MOST_FLIPPED, MOST_DISPUTED = 24, 12
# Pixels of the longer side of what is shown.
IMAGE_SIDE, FRAME_SIDE = 96, 320


@dataclass(frozen=True)
class HeldOut:
    """The held-out target, as far as it is at hand.

    Attributes:
        images: uint8 [N, C, H, W], a torch tensor.
        names: Of the classes.
        labels: int64 [N], or [N, H, W] for segmentation; None where there are none.
    """

    images: Any
    names: tuple[str, ...]
    labels: Any


def write_report(
    store: StudyStore,
    file: Path | None = None,
    *,
    data_root: Path | None = None,
    state: str | None = None,
    plots: Path | None = None,
) -> StudyFacts:
    """Write the page of a study, in one go; returns what it tells.

    Args:
        store: Of the study.
        file: The page; by default ``report.html`` in the study's folder.
        data_root: Folder of data sets, as `Study` has it.
        state: Of the study, where its own process knows better than its folder does yet.
        plots: Folder for the page's charts as files of their own; None writes none.

    Raises:
        ValueError: If there is no such study.
        OSError: If the file cannot be written.
    """
    facts, pictures = gather(store, data_root=data_root, state=state)
    file = file or store.page
    file.parent.mkdir(parents=True, exist_ok=True)
    drawn = draw_charts(facts)
    replace_text(file, render_page(facts, pictures, drawn))
    if plots:
        write_plots(drawn, plots)
    return facts


def gather(
    store: StudyStore, *, data_root: Path | None = None, state: str | None = None
) -> tuple[StudyFacts, Pictures]:
    """What the page of a study tells, and the images that it shows.

    Raises:
        ValueError: If there is no such study.
    """
    status = results.status(store)
    study = store.read("study")
    assert study is not None, "status has read it"
    # A password in an address would be refused today, and has no place in a page.
    config = StudyConfig.from_mapping(filled_up(without_credentials(study["config"])))
    state = state or status["state"]
    ended = ended_trials(store, config.objective, config.search.constraints)
    best, no_answer = _best(store)
    trials = _trials(store, ended, best)
    opinions = read_opinions(store, ended, best["trial"]["key"]) if best else None
    held_out = _held_out(config.trial.task, data_root, opinions) if opinions else None
    facts = StudyFacts(
        study=config.name,
        state=state,
        error=masked(status["error"]) if status["error"] else None,
        drawn=time.time(),
        question=_question(config, status),
        answer=_without_oracle(best) if best else None,
        no_answer=no_answer,
        remarks=_remarks(store, best, trials, state, config) if best else (),
        changes=_changes(best, opinions, held_out),
        no_changes=_no_changes(best, opinions),
        importance=parameter_importance(config.space, ended),
        trials=trials,
        cost=_cost(store, status, trials, config, best),
        reproduction=reproduction(config, study.get("environment")),
        oracle=_oracle(best, opinions, held_out) if best else None,
    )
    if best is None or opinions is None or held_out is None:
        return facts, Pictures()
    return facts, _pictures(store, best, opinions, held_out)


def _best(store: StudyStore) -> tuple[dict[str, Any] | None, str | None]:
    """The choice, or why there is none."""
    try:
        return results.best(store), None
    except ValueError as error:
        return None, f"{error}."


def _without_oracle(best: Mapping[str, Any]) -> dict[str, Any]:
    """The choice without what target labels say of it, which stands apart."""
    kept = {key: value for key, value in best.items() if key not in ("oracle", "regret")}
    for key in ("seeds", "no_adaptation"):
        kept[key] = {name: value for name, value in best[key].items() if name != "oracle"}
    return kept


def _question(config: StudyConfig, status: Mapping[str, Any]) -> Question:
    task, schedule = config.trial.task, config.schedule.kind
    return Question(
        source=task.source,
        target=task.target,
        network=task.network,
        searched=_searched(config.space),
        logarithmic=tuple(
            path
            for path, parameter in config.space.items()
            if isinstance(parameter, RangeParameter) and parameter.kind == "log"
        ),
        objective=config.objective.name,
        by_oracle=config.objective.is_oracle,
        trials=status["trials"],
        planned=config.planned_trials,
        sampler=config.search.sampler,
        objectives=config.search.objectives,
        schedule=schedule,
    )


def _searched(space: SearchSpace) -> dict[str, str]:
    return {path: _in_words(parameter) for path, parameter in space.items()}


def _in_words(parameter: Parameter) -> str:
    if isinstance(parameter, ChoiceParameter):
        where = f"one of {', '.join(map(_as_in_files, parameter.choice))}"
    elif isinstance(parameter, SubsetParameter):
        where = f"at least {parameter.min} of {', '.join(parameter.subset)}"
    else:
        low, high = parameter.bounds
        scale = {"log": ", logarithmic", "int": ", whole", "float": ""}[parameter.kind]
        where = f"from {low:g} to {high:g}{scale}"
    conditions = " and ".join(f"{p} is {_as_in_files(v)}" for p, v in parameter.when.items())
    return f"{where}, where {conditions}" if conditions else where


def _as_in_files(value: Any) -> str:
    """A value as a study file has it: true, not True."""
    return value if isinstance(value, str) else json.dumps(value)


def _trials(
    store: StudyStore, ended: Sequence[Ended], best: Mapping[str, Any] | None
) -> tuple[TrialFacts, ...]:
    by_key = {each.record.key: each for each in ended}
    chosen = best["trial"]["key"] if best else None
    return tuple(
        _trial(record, end, by_key.get(record.key), is_chosen=record.key == chosen)
        for record, _, end in results.trial_table(store)
    )


def _trial(
    record: TrialRecord, end: EndRecord, ended: Ended | None, *, is_chosen: bool
) -> TrialFacts:
    adaptation = record.config.adaptation
    is_general = adaptation.kind == "general"
    return TrialFacts(
        key=record.key,
        number=record.number,
        name=record.name,
        role=record.role,
        state=end.state,
        score=ended.score if ended else None,
        oracle=(end.oracle or {}).get("test"),
        seconds=end.seconds,
        layers="+".join(adaptation.layers) if is_general else "",
        adversary=adaptation.adversary if is_general else "",
        weight=adaptation.weight,
        settings=_settings(record),
        left_out=ended.left_out if ended else (),
        error=masked(end.error) if end.error else None,
        chosen=is_chosen,
    )


def _settings(record: TrialRecord) -> dict[str, str | float | bool]:
    if record.role not in WITH_SETTINGS:
        return {}
    return {
        path: "+".join(value) if isinstance(value, list | tuple) else value
        for path, value in record.settings.items()
        if path not in ("seed", "steps", "continues")
    }


def _remarks(
    store: StudyStore,
    best: Mapping[str, Any],
    trials: Sequence[TrialFacts],
    state: str,
    config: StudyConfig,
) -> tuple[Remark, ...]:
    kept = store.trial(best["trial"]["key"]).kept()
    guard = kept.metrics if kept and best["adapt"] else {}
    return remarks(best, trials, guard, state=state, label_shift=config.objective.label_shift)


def _cost(
    store: StudyStore,
    status: Mapping[str, Any],
    trials: Sequence[TrialFacts],
    config: StudyConfig,
    best: Mapping[str, Any] | None,
) -> Cost:
    resources, seconds = config.resources, [trial.seconds for trial in trials]
    # Of a study that was taken up again, the hours in which it ran, and not those in between.
    spent = (store.read("state") or {}).get("spent", {}).get("hours", 0.0) * 3600
    running_s = spent or status["elapsed_s"]
    return Cost(
        elapsed_s=status["elapsed_s"],
        trial_s=sum(seconds),
        median_trial_s=statistics.median(seconds) if seconds else None,
        gpu_s=sum(seconds) * resources.workers * resources.gpus_per_worker,
        at_a_time=sum(seconds) / running_s if running_s else 0.0,
        workers=resources.workers,
        cpus_per_worker=resources.cpus_per_worker,
        gpus_per_worker=resources.gpus_per_worker,
        pareto=tuple(best["pareto"]) if best else (),
    )


def _held_out(task: TaskConfig, data_root: Path | None, opinions: Opinions) -> HeldOut | None:
    """The held-out target that was predicted; None, with a line in the log, if it is not here."""
    from gam_ray.training.data import load_held_out_labels, load_held_out_target

    try:
        images, names = load_held_out_target(task, data_root)
        labels = load_held_out_labels(task, data_root)
    except (ValueError, OSError) as error:
        logger.warning("the report shows no images: %s", error)
        return None
    count, classes = opinions.after.shape
    if len(names) != classes or count % len(images):
        logger.warning(
            "the report shows no images: trials predicted %d rows of %d classes, but %s has %d "
            "held-out images of %d classes here; see --data-root",
            count, classes, task.target, len(images), len(names),
        )  # fmt: skip
        return None
    return HeldOut(images.images, names, labels)


def _of_images(opinions: Opinions, held_out: HeldOut | None) -> bool:
    """Whether every image has one prediction, and not every pixel of a sample."""
    return held_out is None or len(opinions.before) == len(held_out.images)


def _changes(
    best: Mapping[str, Any] | None, opinions: Opinions | None, held_out: HeldOut | None
) -> Changes | None:
    if best is None or opinions is None or not best["adapt"]:
        return None
    classes = opinions.after.shape[1]
    names = held_out.names if held_out else tuple(f"class {k}" for k in range(classes))
    unit = "images" if _of_images(opinions, held_out) else "sampled pixels"
    return changes(opinions, names, unit)


def _no_changes(best: Mapping[str, Any] | None, opinions: Opinions | None) -> str | None:
    if best is None:
        return "Unknown while nothing is chosen."
    if not best["adapt"]:
        return "Nothing: the choice is the source network as it is."
    if opinions is None:
        return "Unknown: the source network's own trial, to compare with, has not ended."
    return None


def _oracle(
    best: Mapping[str, Any], opinions: Opinions | None, held_out: HeldOut | None
) -> OracleFacts | None:
    if not best["oracle"]:
        return None
    before: Mapping[str, float] = best["no_adaptation"]["oracle"] or {}
    after: Mapping[str, float] = best["oracle"]
    is_segmentation = any("/iou/" in name for name in after)
    classes = _iou(before, after) if is_segmentation else _accuracies(opinions, held_out)
    return OracleFacts(
        figure="mean IoU" if is_segmentation else "accuracy",
        per_class_figure="IoU, test" if is_segmentation else "accuracy, held out",
        before={name: value for name, value in before.items() if "/" not in name},
        after={name: value for name, value in after.items() if "/" not in name},
        regret=best["regret"] or {},
        classes=classes,
    )


def _iou(before: Mapping[str, float], after: Mapping[str, float]) -> tuple[ClassQuality, ...]:
    prefix = "test/iou/"
    names = [name for name in after if name.startswith(prefix)]
    return tuple(
        ClassQuality(name.removeprefix(prefix), before.get(name), after[name]) for name in names
    )


def _accuracies(opinions: Opinions | None, held_out: HeldOut | None) -> tuple[ClassQuality, ...]:
    if opinions is None or held_out is None or held_out.labels is None:
        return ()
    labels = held_out.labels.numpy()
    if labels.shape != opinions.before.shape:
        return ()
    before = class_accuracy(opinions.before, labels)
    after = class_accuracy(opinions.now, labels)
    return tuple(ClassQuality(held_out.names[k], before[k], after[k]) for k in before)


def _pictures(
    store: StudyStore, best: Mapping[str, Any], opinions: Opinions, held_out: HeldOut
) -> Pictures:
    """Examples from images that are at hand."""
    if not _of_images(opinions, held_out):
        frames, colours = _frames(store, opinions.unadapted, best["trial"]["key"], held_out)
        return Pictures(flipped=frames, colours=colours)
    names = held_out.names

    def picture(row: int, other: int, word: str) -> Picture:
        now, sure = opinions.now[row], opinions.after[row].max()
        caption = f"{word} {names[other]}, now {names[now]} ({100 * sure:.0f} %)"
        return Picture(data_uri(held_out.images[row].numpy(), IMAGE_SIDE), caption)

    flipped = opinions.surest(opinions.flipped, MOST_FLIPPED)
    disputed = opinions.surest(opinions.disputed, MOST_DISPUTED)
    return Pictures(
        flipped=tuple(picture(row, opinions.before[row], "was") for row in flipped),
        disputed=tuple(picture(row, opinions.consensus[row], "others:") for row in disputed),
    )


def _frames(
    store: StudyStore, before: str, after: str, held_out: HeldOut
) -> tuple[tuple[Picture, ...], tuple[ClassColour, ...]]:
    """Frames as the source network and the choice see them, and the colours of their classes.

    Args:
        store: Of the study.
        before: Key of the source network's own trial.
        after: Key of the choice.
        held_out: The frames.
    """
    masks = [_masks(store, key) for key in (before, after)]
    if not all(masks) or masks[0].keys() != masks[1].keys():
        return (), ()
    colours = class_colours(held_out.names)
    shown = []
    for row in masks[0]:
        old, new = masks[0][row], masks[1][row]
        if (share := float((old != new).mean())) > 0:
            image = held_out.images[row].numpy()
            uri = data_uri(
                beside(image, coloured(old, colours), coloured(new, colours)), 3 * FRAME_SIDE
            )
            caption = f"image, source network, choice: {100 * share:.0f} % of the pixels changed"
            shown.append((share, Picture(uri, caption)))
    shown.sort(key=lambda each: -each[0])
    key = zip(held_out.names, colours, strict=True)
    return tuple(each for _, each in shown), tuple(
        ClassColour(n, f"#{bytes(c).hex()}") for n, c in key
    )


def _masks(store: StudyStore, trial: str) -> dict[int, NDArray[np.uint8]]:
    """Row of the held-out target → mask that a trial has left; empty where it left none."""
    try:
        left = Exhibits.read(store.trial(trial).exhibits)
    except (ValueError, OSError) as error:
        logger.warning("the report shows no frames: %s", error)
        return {}
    return dict(zip(left.frames.tolist(), left.masks, strict=True)) if left else {}
