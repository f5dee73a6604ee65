"""Whether a study may be taken up again, by what stands in its folder."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from gam_ray.config import StudyConfig
from gam_ray.study.store import StudyStore
from gam_ray.study.study import Study

MakeConfig = Callable[..., StudyConfig]


def known(make: MakeConfig, **changes: Any) -> None:
    """A finished study of these settings in its folder."""
    study = Study(make(**changes))
    content = {"key": study.config.key(), "config": study.config.to_mapping()}
    StudyStore(study.config.folder).write("study", content)
    StudyStore(study.config.folder).write("state", {"state": "finished"})


def test_a_changed_space_is_refused_with_the_difference_shown(make_config: MakeConfig) -> None:
    known(make_config)
    space = {"adaptation.weight": {"log": [0.1, 1]}}
    with pytest.raises(ValueError, match="other settings") as caught:
        Study(make_config(space=space, search={"trials": 3}))._check_folder()
    lines = str(caught.value).splitlines()
    assert "  space.adaptation.weight.log: [0.1, 10.0] → [0.1, 1.0]" in lines
    assert "  search.trials: 4 → 3 (may only grow)" in lines
    assert any("space.adaptation.layers.subset" in line and "(none)" in line for line in lines)


def test_changed_constraints_are_refused(make_config: MakeConfig) -> None:
    known(make_config, search={"trials": 4, "constraints": {"seconds": {"max": 9}}})
    with pytest.raises(ValueError, match=r"search.constraints.seconds.max: 9.0 → 10.0"):
        Study(
            make_config(search={"trials": 4, "constraints": {"seconds": {"max": 10}}})
        )._check_folder()


def test_a_finished_study_goes_on_where_more_trials_are_asked_for(make_config: MakeConfig) -> None:
    known(make_config)
    same, more = Study(make_config()), Study(make_config(search={"trials": 24}))
    for study in (same, more):
        study._check_folder()
    assert same._is_over()
    assert not more._is_over()


def test_a_folder_of_an_older_version_is_taken_up(make_config: MakeConfig) -> None:
    known(make_config)
    study = Study(make_config())
    content = study.store.read("study")
    assert content is not None
    del content["config"]["search"]["enqueue"]
    del content["config"]["search"]["constraints"]
    study.store.write("study", content)
    study._check_folder()


def test_other_images_than_before_are_named(
    make_config: MakeConfig, caplog: pytest.LogCaptureFixture
) -> None:
    known(make_config)
    study = Study(make_config())
    study._check_settings()
    content = study.store.read("study") or {}
    before = {**study._fingerprints, "target train": "7 images, sha256 0123456789abcdef"}
    study.store.write("study", {**content, "environment": {"data": before}})
    study._warn_of_other_data()
    (told,) = caplog.messages
    assert told.startswith("target train has other images")
    assert "7 images, sha256 0123456789abcdef, now 897 images" in told
