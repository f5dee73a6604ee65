"""Configuration models: canonical form, keys, rules between settings, and changed settings."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from gam_ray.config import (
    AdaptationConfig,
    FineTuningConfig,
    MomentsConfig,
    ObjectiveConfig,
    OptimizerConfig,
    PretrainingConfig,
    ResourcesConfig,
    ScheduleConfig,
    SearchConfig,
    SearchSpace,
    StudyConfig,
    TaskConfig,
    TrackingConfig,
    TrialConfig,
    apply_settings,
    derive_seed,
)

BASE = TrialConfig(
    task=TaskConfig(source="mnist", target="usps"),
    adaptation=AdaptationConfig(layer_weights={"fc3": 0.3}),
    fine_tuning=FineTuningConfig(images=10),
)
# For every setting of a trial another value than BASE has.
OTHER: dict[str, Any] = {
    "task.source": "usps",
    "task.target": "mnist",
    "task.network": "erfnet",
    "task.size": [32, 48],
    "task.classes": "camvid-11",
    "precision": "bfloat16",
    "compiled": True,
    "continues": "abc",
    "pretraining.weights": "imagenet",
    "pretraining.schedule": "poly",
    "pretraining.augmentation.flip": True,
    "pretraining.augmentation.crop": [24, 24],
    "pretraining.augmentation.rotate": 15.0,
    "pretraining.augmentation.shift": 0.1,
    "pretraining.augmentation.zoom": 0.1,
    "pretraining.augmentation.colour": 0.2,
    "pretraining.steps": 9_999,
    "pretraining.batch_size": 64,
    "pretraining.learning_rate": 2e-3,
    "pretraining.weight_decay": 0.0,
    "pretraining.seed": 1,
    "adaptation.kind": "gaussian",
    "adaptation.weight": 0.2,
    "adaptation.layer_weights.fc3": 0.4,
    "adaptation.layers": ["fc3"],
    "adaptation.adversary": "lsgan",
    "adaptation.gaussian": False,
    "adaptation.moments.kind": "initial",
    "adaptation.moments.momentum": 0.2,
    "adaptation.drift": 0.5,
    "adaptation.drift_reduction": "mean",
    "optimizer.target_lr": 1e-4,
    "optimizer.discriminator_lr": 1e-4,
    "optimizer.beta1": 0.9,
    "steps": 9_999,
    "batch_size": 64,
    "report_every": 499,
    "augmentation.flip": True,
    "augmentation.crop": [24, 24],
    "augmentation.rotate": 15.0,
    "augmentation.shift": 0.1,
    "augmentation.zoom": 0.1,
    "augmentation.colour": 0.2,
    "fine_tuning.images": 25,
    "fine_tuning.steps": 100,
    "fine_tuning.batch_size": 8,
    "fine_tuning.learning_rate": 1e-3,
    "seed": 1,
}


def leaves(mapping: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Dotted path → value of every setting."""
    found = {}
    for name, value in mapping.items():
        below = leaves(value, f"{prefix}{name}.") if isinstance(value, dict) else None
        found.update(below if below is not None else {f"{prefix}{name}": value})
    return found


positive = st.sampled_from([1e-3, 0.1, 1.0, 3.0])
counts = st.sampled_from([1, 16, 128])
layer_names = st.lists(
    st.sampled_from(["conv1", "conv2", "fc3", "fc4"]), min_size=1, max_size=4, unique=True
)
trials = st.builds(
    TrialConfig,
    task=st.builds(TaskConfig, source=st.text(max_size=3), target=st.sampled_from(["a", "b"])),
    pretraining=st.builds(PretrainingConfig, steps=counts, learning_rate=positive),
    adaptation=st.builds(
        AdaptationConfig,
        kind=st.sampled_from(["none", "gaussian", "general"]),
        weight=positive,
        layers=layer_names.map(tuple),
        gaussian=st.booleans(),
        moments=st.builds(MomentsConfig, momentum=st.sampled_from([0.0, 0.5, 1.0])),
    ),
    optimizer=st.builds(OptimizerConfig, target_lr=st.floats(1e-8, 1e8)),
    steps=counts,
    seed=st.integers(0, 2**70),
)
PARAMETERS = {
    "adaptation.weight": {"log": [1e-3, 10.0]},
    "adaptation.drift": {"float": [0.0, 1.0], "when": {"adaptation.kind": "general"}},
    "batch_size": {"int": [1, 8]},
    "adaptation.gaussian": {"choice": [True, False]},
    "adaptation.layers": {"subset": ["fc3", "fc4"], "min": 0},
    "steps": {"choice": [1, 2, 3]},
    "optimizer.beta1": {"choice": [0.5, 0.9]},
}
spaces = st.lists(st.sampled_from(sorted(PARAMETERS)), unique=True).map(
    lambda names: SearchSpace.model_validate_json(
        json.dumps({name: PARAMETERS[name] for name in names})
    )
)
studies = st.builds(
    StudyConfig,
    name=st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,79}", fullmatch=True),
    trial=trials,
    space=spaces,
    search=st.builds(SearchConfig, trials=counts, sampler=st.sampled_from(["tpe", "random"])),
    objective=st.builds(
        ObjectiveConfig,
        score=st.sampled_from(["ensv", "class_ami", ("ensv", "bnm"), "oracle"]),
        checkpoint_score=st.sampled_from(["confident_ensv", ("ensv", "bnm")]),
        patience=st.none() | counts,
    ),
    resources=st.builds(ResourcesConfig, workers=counts, max_lanes=st.none() | counts),
    tracking=st.builds(TrackingConfig, uri=st.none() | st.text(max_size=5)),
)


@given(trial=trials)
def test_a_trial_survives_the_way_through_plain_data(trial: TrialConfig) -> None:
    again = TrialConfig.from_mapping(trial.to_mapping())
    assert again == trial
    assert again.key() == trial.key()


@given(study=studies)
def test_a_study_survives_the_way_through_plain_data(study: StudyConfig) -> None:
    again = StudyConfig.from_mapping(study.to_mapping())
    assert again == study
    assert again.canonical() == study.canonical()


def test_a_score_is_one_or_several_and_says_its_name() -> None:
    one = ObjectiveConfig.from_mapping({"score": "bnm"})
    assert (one.score, one.metric, one.name) == (("bnm",), "bnm", "bnm")
    several = ObjectiveConfig.from_mapping({"score": ["ensv", "bnm"]})
    assert (several.metric, several.name) == ("mean_rank", "mean_rank(ensv, bnm)")
    assert [ObjectiveConfig.from_mapping({"score": s}).is_oracle for s in ("oracle", "ensv")] == [
        True,
        False,
    ]
    assert not ObjectiveConfig().is_oracle


def test_checkpoints_are_found_by_labels_only_where_the_study_is() -> None:
    assert ObjectiveConfig().checkpoint_scores == ("confident_ensv",)
    assert ObjectiveConfig.from_mapping({"score": "oracle"}).checkpoint_scores == ("oracle",)
    both = ObjectiveConfig.from_mapping({"score": "ensv", "checkpoint_score": ["bnm", "snd"]})
    assert both.checkpoint_scores == ("bnm", "snd")
    with pytest.raises(ValidationError, match="checkpoint_score"):
        ObjectiveConfig.from_mapping({"score": "ensv", "checkpoint_score": "oracle"})
    with pytest.raises(ValidationError, match="checkpoint_score takes one or several"):
        ObjectiveConfig.from_mapping({"checkpoint_score": []})


@pytest.mark.parametrize(
    ("score", "rule"),
    [
        (["ensv", "bnm", "ensv"], r"all distinct, but got \['ensv', 'bnm', 'ensv'\]"),
        (["ensv", "oracle"], "oracle cannot be mixed with label-free scores, but got ensv, oracle"),
        ([], r"one or several, all distinct, but got \[\]"),
        ("oracel", r"(?s)score\.0\n.*Input should be 'ensv', .*or 'oracle'"),
        (3, "valid array"),
    ],
)
def test_scores_that_do_not_go_together_are_refused(score: Any, rule: str) -> None:
    with pytest.raises(ValidationError, match=rule):
        ObjectiveConfig.from_mapping({"score": score})


@given(one=trials, other=trials)
def test_keys_are_equal_exactly_where_settings_are(one: TrialConfig, other: TrialConfig) -> None:
    assert (one.key() == other.key()) == (one == other)


def test_every_setting_has_another_value_here() -> None:
    # A student goes with no adaptation alone, and has a test of its own.
    assert OTHER.keys() == leaves(BASE.to_mapping()).keys() - {"student"}


def test_other_teachers_in_another_order_or_taught_otherwise_give_another_key() -> None:
    base = apply_settings(BASE, {"adaptation.kind": "none", "fine_tuning": None})
    students = [
        None,
        {"teachers": ["a", "b"]},
        {"teachers": ["b", "a"]},
        {"teachers": ["a"]},
        {"teachers": ["a", "b"], "steps": 7},
        {"teachers": ["a", "b"], "augmentation": {"shift": 0.2}},
    ]
    assert len({apply_settings(base, {"student": each}).key() for each in students}) == 6


def test_a_student_is_written_by_the_study_and_not_by_its_user() -> None:
    trial = apply_settings(
        BASE, {"adaptation.kind": "none", "fine_tuning": None, "student": {"teachers": ["a"]}}
    )
    with pytest.raises(ValidationError, match=r"trial\.student is written by the study itself"):
        StudyConfig(name="a", trial=trial, space=SearchSpace.model_validate_json("{}"))


@pytest.mark.parametrize(
    ("settings", "planned"),
    [
        ({}, 2 + 40 + 3 * 2 + 1),
        ({"student": None}, 2 + 40 + 3 * 2),
        ({"objective": {"seeds": 1}}, 2 + 40 + 1),
        ({"search": {"trials": 2}, "objective": {"seeds": 5}}, 2 + 2 + 2 * 4 + 1),
    ],
)
def test_planned_trials_are_baselines_search_finalists_and_student(
    settings: dict[str, Any], planned: int
) -> None:
    study = {"name": "a", "trial": BASE.to_mapping(), "space": PARAMETERS, **settings}
    assert StudyConfig.from_mapping(study).planned_trials == planned


@pytest.mark.parametrize("path", OTHER)
def test_another_value_of_any_setting_gives_another_key(path: str) -> None:
    changed = apply_settings(BASE, {path: OTHER[path]})
    assert changed.key() != BASE.key()
    assert apply_settings(changed, {path: leaves(BASE.to_mapping())[path]}).key() == BASE.key()


def test_settings_that_came_later_leave_the_keys_of_older_trials() -> None:
    # As gam_ray gave it before there was a precision.
    older = TrialConfig(task=TaskConfig(source="mnist", target="usps"))
    assert older.key() == "b8ad5a3f7fdce38c"
    assert older.to_mapping()["precision"] == "float32"


def test_a_key_does_not_tell_defaults_from_written_values() -> None:
    written = TrialConfig.from_mapping(BASE.to_mapping())
    assert written.key() == BASE.key()
    assert len(BASE.key()) == 16
    int(BASE.key(), 16)


def test_a_key_does_not_tell_in_which_order_a_space_is_written() -> None:
    one, other = (
        StudyConfig(name="a", trial=BASE, space=SearchSpace.model_validate_json(json.dumps(space)))
        for space in (PARAMETERS, dict(reversed(PARAMETERS.items())))
    )
    assert list(one.space) != list(other.space)
    assert one.key() == other.key()


@given(paths=st.sets(st.sampled_from(sorted(OTHER))))
def test_applied_settings_change_what_they_name_and_nothing_else(paths: set[str]) -> None:
    before = leaves(BASE.to_mapping())
    changed = apply_settings(BASE, {path: OTHER[path] for path in paths})
    assert leaves(changed.to_mapping()) == before | {path: OTHER[path] for path in paths}
    assert leaves(BASE.to_mapping()) == before


@pytest.mark.parametrize("path", ["adaptation.wieght", "weight", "adaptation.weight.x", "", "a.b"])
def test_a_path_that_names_no_setting_is_refused(path: str) -> None:
    with pytest.raises(ValueError, match="is no setting of a trial"):
        apply_settings(BASE, {path: 1})


@pytest.mark.parametrize(
    ("path", "value"),
    [("steps", 0), ("steps", 1.5), ("seed", True), ("adaptation.layers", ["fc3", "fc3"])],
)
def test_a_value_that_a_setting_refuses_is_refused(path: str, value: Any) -> None:
    with pytest.raises(ValueError, match=path.split(".", maxsplit=1)[0]):
        apply_settings(BASE, {path: value})


def test_models_are_frozen() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        BASE.steps = 3  # type: ignore[misc]


def test_baselines_keep_what_makes_the_task_and_drop_the_rest() -> None:
    trial = apply_settings(BASE, {**OTHER, "adaptation.kind": "general"})
    baseline = trial.baseline("gaussian")
    kept = (baseline.task, baseline.pretraining, baseline.seed)
    assert kept == (trial.task, trial.pretraining, trial.seed)
    assert baseline == apply_settings(trial, {"adaptation.kind": "none"}).baseline("gaussian")


# Seeds


@pytest.mark.parametrize(
    ("arguments", "seed"),
    [
        ((0, "weights"), 133_441_691_874_178_746),
        ((7, "batches", "target", 3), 1_590_276_862_407_635_324),
    ],
)
def test_derived_seeds_never_change(arguments: tuple[Any, ...], seed: int) -> None:
    assert derive_seed(*arguments) == seed


@given(
    one=st.tuples(st.integers(0, 2**64), st.sampled_from(["a", "b", "ab"]), st.integers(0, 99)),
    other=st.tuples(st.integers(0, 2**64), st.sampled_from(["a", "b", "ab"]), st.integers(0, 99)),
)
def test_derived_seeds_differ_where_any_part_of_the_name_does(
    one: tuple[int, str, int], other: tuple[int, str, int]
) -> None:
    assert (derive_seed(*one) == derive_seed(*other)) == (one == other)
    assert 0 <= derive_seed(*one) < 2**63


# Rules between settings


def study(**settings: Any) -> StudyConfig:
    return StudyConfig(name="a", trial=BASE, space=SearchSpace({}), **settings)


def test_rungs_must_come_before_the_last_step() -> None:
    assert study(schedule=ScheduleConfig(kind="asha", min_steps=9_500))
    with pytest.raises(ValidationError, match=r"min_steps must be less than trial\.steps, but got"):
        study(schedule=ScheduleConfig(kind="asha", min_steps=10_000))


def test_rungs_must_be_at_reports() -> None:
    with pytest.raises(ValidationError, match=r"multiple of trial\.report_every.* got 700 and 500"):
        study(schedule=ScheduleConfig(kind="asha", min_steps=700))


def test_without_a_schedule_rungs_do_not_matter() -> None:
    assert study(schedule=ScheduleConfig(min_steps=77_777))


@pytest.mark.parametrize(("workers", "gpus"), [(2, 0.0), (2, 1.0), (1, 0.25), (4, 2.0)])
def test_whole_gpus_and_single_workers_go_together(workers: int, gpus: float) -> None:
    assert ResourcesConfig(workers=workers, gpus_per_worker=gpus)


def test_workers_of_one_trial_cannot_share_a_gpu() -> None:
    with pytest.raises(ValidationError, match=r"workers=2 with gpus_per_worker=0\.5"):
        ResourcesConfig(workers=2, gpus_per_worker=0.5)


@pytest.mark.parametrize("name", ["", "a b", "-a", "a/b", "../a", "a" * 81, "ä"])
def test_a_study_name_is_a_file_name(name: str) -> None:
    with pytest.raises(ValidationError, match="a name takes letters"):
        StudyConfig(name=name, trial=BASE, space=SearchSpace({}))
