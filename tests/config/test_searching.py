"""What does not go together in a search is told at once, each with its place."""

from __future__ import annotations

from pathlib import Path
from typing import get_args

import pytest

from gam_ray.config import ConfigError, SearchConfig, load_study_config
from gam_ray.config.study import SamplerName

STUDY = """
name: a-study
trial:
  task: {{source: mnist, target: usps}}
space:
  adaptation.weight: {{log: [0.1, 10]}}
  adaptation.layers: {{subset: [conv1, fc3, fc4], min: 1}}
  adaptation.adversary: {{choice: [gan, lsgan]}}
  batch_size: {{int: [8, 64]}}
  adaptation.moments.kind: {{choice: [initial, running]}}
  adaptation.moments.momentum: {{float: [0, 0.5], when: {{adaptation.moments.kind: running}}}}
search:
{search}
"""


def problems(tmp_path: Path, search: str) -> dict[str, str]:
    file = tmp_path / "study.yaml"
    file.write_text(STUDY.format(search=search))
    try:
        load_study_config(file)
    except ConfigError as error:
        return {problem.path: problem.message for problem in error.problems}
    return {}


def test_known_settings_that_fit_are_taken(tmp_path: Path) -> None:
    search = """
  enqueue:
    - {adaptation.weight: 1, adaptation.layers: [fc4], batch_size: 8}
    - {adaptation.moments.kind: running, adaptation.moments.momentum: 0.5}
    - {}
"""
    assert problems(tmp_path, search) == {}


def test_all_that_is_wrong_with_known_settings_is_told_at_once(tmp_path: Path) -> None:
    search = """
  enqueue:
    - {adaptation.wieght: 1, batch_size: 8.5, adaptation.adversary: wgan}
    - {adaptation.weight: 100, adaptation.layers: [fc3, fc3]}
    - {adaptation.moments.momentum: 0.1}
    - {adaptation.moments.momentum: 0.1, adaptation.moments.kind: initial}
    - {adaptation.layers: fc3, adaptation.weight: true}
"""
    found = problems(tmp_path, search)
    assert set(found) == {
        "search.enqueue.0.adaptation.wieght",
        "search.enqueue.0.batch_size",
        "search.enqueue.0.adaptation.adversary",
        "search.enqueue.1.adaptation.weight",
        "search.enqueue.1.adaptation.layers",
        "search.enqueue.2.adaptation.moments.momentum",
        "search.enqueue.3.adaptation.moments.momentum",
        "search.enqueue.4.adaptation.layers",
        "search.enqueue.4.adaptation.weight",
    }
    assert "did you mean 'adaptation.weight'" in found["search.enqueue.0.adaptation.wieght"]
    assert "an integer from 8 to 64, but got 8.5" in found["search.enqueue.0.batch_size"]
    assert "from 0.1 to 10, but got 100" in found["search.enqueue.1.adaptation.weight"]
    assert (
        "only where adaptation.moments.kind is 'running'"
        in (found["search.enqueue.2.adaptation.moments.momentum"])
    )


def test_problems_elsewhere_do_not_hide_those_of_known_settings(tmp_path: Path) -> None:
    found = problems(tmp_path, "  enqueue: [{batch_size: 1}]\nobjective: {score: nonsense}")
    assert set(found) == {"search.enqueue.0.batch_size", "objective.score.0"}


def test_known_settings_are_fewer_than_trials(tmp_path: Path) -> None:
    found = problems(tmp_path, "  trials: 2\n  enqueue: [{batch_size: 8}, {batch_size: 9}]")
    assert list(found) == ["search"]
    assert "fewer settings than trials" in found["search"]


def test_cmaes_needs_two_numbers(tmp_path: Path) -> None:
    assert problems(tmp_path, "  sampler: cmaes") == {}
    file = tmp_path / "study.yaml"
    file.write_text(
        "name: a\ntrial: {task: {source: mnist, target: usps}}\nsearch: {sampler: cmaes}\n"
        "space: {adaptation.weight: {log: [0.1, 1]}, adaptation.adversary: {choice: [gan, lsgan]}}"
    )
    with pytest.raises(ConfigError, match=r"cmaes needs at least 2 numbers.*got adaptation.weight"):
        load_study_config(file)


def test_score_or_score_and_cost_are_objectives(tmp_path: Path) -> None:
    for names in ("[score]", "[score, cost]"):
        assert problems(tmp_path, f"  objectives: {names}") == {}
    assert SearchConfig().objectives == ("score",)


@pytest.mark.parametrize("names", ["[]", "[cost]", "[cost, score]", "[score, score]"])
def test_other_objectives_are_refused(tmp_path: Path, names: str) -> None:
    found = problems(tmp_path, f"  objectives: {names}")
    rule = f"must be [score] or [score, cost], but got {names}"
    assert found == {"search.objectives": rule}


@pytest.mark.parametrize("sampler", get_args(SamplerName))
def test_cmaes_alone_takes_no_second_objective(tmp_path: Path, sampler: str) -> None:
    found = problems(tmp_path, f"  sampler: {sampler}\n  objectives: [score, cost]")
    assert list(found) == (["search.objectives"] if sampler == "cmaes" else [])
    for message in found.values():
        assert "cmaes takes one objective, but got [score, cost]; use another" in message


@pytest.mark.parametrize(
    "address",
    [
        "sqlite:////tmp/a.db",
        "postgresql://host/name",
        "postgresql://me@host/name",
        "postgresql+psycopg2://me:${PASSWORD}@host:5432/name?sslmode=require",
        "postgresql://host/name?user=me&password=${PASSWORD}",
        "${GAM_RAY_OPTUNA}",
    ],
)
def test_addresses_without_secrets_are_taken(address: str) -> None:
    assert SearchConfig(storage=address).storage == address


@pytest.mark.parametrize(
    ("address", "rule"),
    [
        ("postgresql://me:hush@host/name", "password may not stand"),
        ("postgresql://me:hu@sh@host/name", "password may not stand"),
        ("postgresql://me:${A}hush@host/name", "password may not stand"),
        ("postgresql://host/name?password=hush", "password may not stand"),
        ("postgres://me:hush@host/name", "address of a database"),
        ("hush.db", "address of a database"),
        ("redis://hush", "address of a database"),
    ],
)
def test_other_addresses_are_refused_and_not_shown(address: str, rule: str) -> None:
    with pytest.raises(ValueError, match=rule) as caught:
        SearchConfig(storage=address)
    assert "hush" not in str(caught.value)


def test_constraints_on_metrics_are_taken(tmp_path: Path) -> None:
    search = """
  constraints:
    score/source_accuracy: {min: 0.9}
    seconds: {min: 1, max: 600}
    loss/discriminator/fc3: {max: 2}
"""
    assert problems(tmp_path, search) == {}


def test_all_that_is_wrong_with_constraints_is_told_at_once(tmp_path: Path) -> None:
    search = """
  constraints:
    seconds: {mxa: 600, min: 1}
    loss/target: {}
    loss/drift: {min: 2, max: 1}
    guard/agreement: {min: .nan}
"""
    found = problems(tmp_path, search)
    assert "did you mean 'max'" in found["search.constraints.seconds.mxa"]
    assert "min, max or both" in found["search.constraints.loss/target"]
    assert "must not exceed max, but got 2 and 1" in found["search.constraints.loss/drift"]
    assert "search.constraints.guard/agreement.min" in found


def test_a_misspelt_score_is_told_with_its_neighbour(tmp_path: Path) -> None:
    search = "  constraints: {score/sorce_accuracy: {min: 0.9}, 'a b': {max: 1}}"
    message = problems(tmp_path, search)["search.constraints"]
    assert "did you mean 'score/source_accuracy'" in message
    assert "no spaces, but got 'a b'" in message


@pytest.mark.parametrize("metric", ["oracle/test", "oracle/train/iou/road", "score/oracle"])
def test_constraints_see_target_labels_only_where_the_objective_does(
    tmp_path: Path, metric: str
) -> None:
    search = f"  constraints: {{{metric}: {{min: 0.5}}}}"
    (message,) = problems(tmp_path, search).values()
    assert metric in message
    assert "target labels" in message
    assert problems(tmp_path, f"{search}\nobjective: {{score: oracle}}") == {}
