"""Where the network of a study's trial comes from, for the card of an exported model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from gam_ray.config import StudyConfig
from gam_ray.export.provenance import Provenance
from gam_ray.study import results
from gam_ray.study.choosing import Ended, ended_trials
from gam_ray.study.store import StudyStore


def chosen(store: StudyStore) -> Provenance:
    """Where the network comes from that the study chooses, as far as it is.

    Raises:
        ValueError: If there is no such study, or nothing to choose.
    """
    choice = results.best(store)
    (trial,) = (each for each in _ended(store) if each.record.key == choice["trial"]["key"])
    return _provenance(store, trial, _how_chosen(choice))


def named(store: StudyStore, trial: str) -> Provenance:
    """Where the network of one trial comes from.

    Args:
        store: Of the study.
        trial: The trial's key or number.

    Raises:
        ValueError: If there is no such study, or no such trial has ended in order.
    """
    ended = _ended(store)
    found = [each for each in ended if trial in (each.record.key, str(each.record.number))]
    if not found:
        able = ", ".join(str(each.record.number) for each in ended) or "none yet"
        raise ValueError(
            f"no trial {trial!r} of {store.folder.name} has ended in order; give a key, or one of "
            f"these numbers: {able}"
        )
    by = f"It was asked for by its name (`--trial {trial}`), whatever the study chooses."
    return _provenance(store, found[0], (by, f"Its score is {found[0].score:.4f}."))


def _ended(store: StudyStore) -> list[Ended]:
    config = _config(store)
    return ended_trials(store, config.objective, config.search.constraints)


def _config(store: StudyStore) -> StudyConfig:
    study = store.read("study")
    if study is None:
        raise ValueError(f"no study in {store.folder}; give its folder, its name or its file")
    return StudyConfig.from_mapping(study["config"])


def _provenance(store: StudyStore, trial: Ended, choice: tuple[str, ...]) -> Provenance:
    files = store.trial(trial.record.key)
    kept, end = files.kept(), files.end()
    assert kept is not None
    assert end is not None
    config = _config(store)
    return Provenance(
        config=trial.record.config,
        checkpoint=files.adapted,
        study=config.name,
        trial=trial.record.name,
        choice=choice,
        by_oracle=config.objective.is_oracle,
        causes=trial.left_out,
        scores=_scores(kept.metrics),
        oracle=end.oracle,
    )


def _scores(metrics: Mapping[str, float]) -> dict[str, float]:
    """The label-free ones."""
    scores = {name: value for name, value in metrics.items() if name.startswith("score/")}
    return {
        name.removeprefix("score/"): value
        for name, value in sorted(scores.items())
        if name != "score/oracle"
    }


def _how_chosen(choice: Mapping[str, Any]) -> tuple[str, ...]:
    """Sentences on what `results.best` gives."""
    score, seeds = choice["score"], choice["seeds"]
    how = "by TARGET LABELS" if choice["by_oracle"] else "without target labels"
    rank = f"higher than {score['percentile']:.0f} % of the trusted trials"
    said = [
        f"The study ({choice['state']}) chose it {how}.",
        f"Its {score['name']} is {score['value']:.4f}, {rank}.",
    ]
    if not choice["adapt"]:
        said.append(results.DO_NOT_ADAPT + " This is the source network as it is.")
    if seeds["std"] is not None:
        said.append(
            f"Over {len(seeds['runs'])} runs of its settings the score is {seeds['mean']:.4f} ± "
            f"{seeds['std']:.4f}."
        )
    if known := choice["reliability"]:
        said.append(
            f"On {known['tasks']:.0f} tasks with known labels, choices by this score were "
            f"{known['mean_regret']:.1f} points below the best trial, at worst "
            f"{known['worst_regret']:.1f}."
        )
    return tuple(said)
