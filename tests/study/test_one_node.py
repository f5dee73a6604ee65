"""All processes of a study on S3 that read its folder are on the node that has it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gam_ray.config import StudyConfig
from gam_ray.study import study as studies
from gam_ray.study.lanes import Lane, LaneSettings
from gam_ray.study.plan import NODE_SHARE, Plan
from gam_ray.study.relay import Relay
from gam_ray.study.study import Study

MakeConfig = Callable[..., StudyConfig]
HERE = "node:10.0.0.1"
NODES = [
    {"Alive": True, "Resources": {"CPU": 2.0, HERE: 1.0}},
    {"Alive": True, "Resources": {"CPU": 8.0, "node:10.0.0.2": 1.0}},
]


@pytest.mark.parametrize(("node", "asked"), [(HERE, {HERE: NODE_SHARE}), (None, {})])
def test_relays_and_workers_ask_for_the_node(
    make_config: MakeConfig, monkeypatch: pytest.MonkeyPatch, node: str | None, asked: Any
) -> None:
    (bundle,) = Relay.default_resource_request({"only_node": node}).bundles
    assert {name: share for name, share in bundle.items() if name != "memory"} == asked

    built: dict[str, Any] = {}
    monkeypatch.setattr(
        "gam_ray.study.lane_trainer.LaneTrainer", lambda *_, **given: built.update(given)
    )
    settings = LaneSettings("lane-0", None, Path("sources"), None, 1, oracle=False)
    Lane(settings, make_config(), Plan(1, 1, 1.0, 0.0, ""), only_node=node)._build()
    workers = built["scaling_config"].resources_per_worker
    assert workers == {"CPU": 1.0, **asked}


def test_the_plan_counts_the_one_node_and_says_so_where_that_is_too_little(
    make_config: MakeConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ray.nodes", lambda: NODES)
    monkeypatch.setattr(studies, "node_resource", lambda: HERE)
    config = make_config(search={"trials": 20})
    assert Study(config)._plan().lanes == 10
    on_s3 = config.model_copy(update={"storage": "s3://bucket/studies"})
    assert Study(on_s3)._plan().lanes == 2
    wide = on_s3.model_copy(update={"resources": make_config(resources={"workers": 4}).resources})
    with pytest.raises(ValueError, match=r"needs 4 CPUs.*all trials run on the node of its own"):
        Study(wide)._plan()
