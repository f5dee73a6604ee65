"""How many trials fit."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from gam_ray.config import ResourcesConfig, StudyConfig
from gam_ray.study.plan import plan_lanes
from gam_ray.study.schedule import rungs
from gam_ray.study.study import Study


@pytest.mark.parametrize(
    ("resources", "cluster", "trials", "lanes", "limit"),
    [
        ({"workers": 2}, {"CPU": 2.0}, 12, 1, "2 CPUs"),
        ({"workers": 2}, {"CPU": 9.0}, 12, 4, "9 CPUs"),
        ({"workers": 1, "cpus_per_worker": 0.1}, {"CPU": 1.0}, 99, 10, "1 CPUs"),
        ({"gpus_per_worker": 0.25}, {"CPU": 16.0, "GPU": 2.0}, 99, 8, "2 GPUs"),
        ({"workers": 2}, {"CPU": 64.0}, 3, 3, "the number of trials (3)"),
        ({"max_lanes": 2}, {"CPU": 64.0}, 9, 2, "resources.max_lanes (2)"),
    ],
)
def test_the_scarcest_thing_limits(
    resources: dict[str, float], cluster: dict[str, float], trials: int, lanes: int, limit: str
) -> None:
    plan = plan_lanes(ResourcesConfig.from_mapping(resources), [cluster], trials)
    assert (plan.lanes, plan.limit) == (lanes, limit)
    assert f"limited by {limit}" in str(plan)


def test_a_trial_that_does_not_fit_is_an_error_with_the_remedy() -> None:
    with pytest.raises(
        ValueError, match=r"needs 2 CPUs, 2 GPUs, but the cluster has 0 GPUs; lower"
    ):
        plan_lanes(ResourcesConfig(workers=2, gpus_per_worker=1.0), [{"CPU": 8.0}], 4)


@pytest.mark.parametrize(
    ("resources", "nodes", "lanes"),
    [
        ({"cpus_per_worker": 2}, [{"CPU": 3.0}] * 3, 3),
        ({"gpus_per_worker": 0.3}, [{"CPU": 8.0, "GPU": 1.0}] * 4, 12),
        ({"workers": 2}, [{"CPU": 1.0}] * 3, 1),
        ({"gpus_per_worker": 1}, [{"CPU": 8.0}, {"CPU": 1.0, "GPU": 4.0}], 1),
    ],
)
def test_no_worker_is_on_two_nodes(
    resources: dict[str, float], nodes: list[dict[str, float]], lanes: int
) -> None:
    assert plan_lanes(ResourcesConfig.from_mapping(resources), nodes, 99).lanes == lanes


def test_what_no_node_has_together_is_refused() -> None:
    nodes = [{"CPU": 8.0}, {"GPU": 4.0}]
    with pytest.raises(ValueError, match="each worker's on one node, but the cluster has what 2"):
        plan_lanes(ResourcesConfig(gpus_per_worker=1.0), nodes, 4)


def test_rungs_grow_by_the_reduction_factor(make_config) -> None:  # noqa: ANN001
    config: StudyConfig = make_config(
        schedule={"kind": "asha", "min_steps": 10, "reduction_factor": 2}
    )
    assert rungs(config) == (10, 20)
    assert rungs(make_config()) == ()


def test_a_cluster_that_grows_is_asked_for_all_lanes_and_waited_for(
    make_config: Callable[..., StudyConfig], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Any] = []
    sizes = iter([{}, {"CPU": 1.0}, {"CPU": 1.0}, {"CPU": 4.0}])

    def request_resources(*, bundles: list[Any]) -> None:
        asked.extend(bundles)

    monkeypatch.setattr("ray.autoscaler.sdk.request_resources", request_resources)
    now: dict[str, float] = {}

    def nodes() -> list[dict[str, Any]]:
        return [{"Alive": True, "Resources": now}]

    def grow(_: float) -> None:
        now.update(next(sizes))

    monkeypatch.setattr("ray.nodes", nodes)
    monkeypatch.setattr("ray.cluster_resources", lambda: now)
    monkeypatch.setattr("gam_ray.study.study.time.sleep", grow)
    resources = {"workers": 2, "cpus_per_worker": 2, "max_lanes": 3, "autoscaling_wait_s": 60}
    assert Study(make_config(resources=resources))._wait_for_place().lanes == 1
    assert asked == [{"CPU": 2.0}] * 6


def test_without_waiting_what_does_not_fit_is_refused_at_once(
    make_config: Callable[..., StudyConfig], monkeypatch: pytest.MonkeyPatch
) -> None:
    one = {"Alive": True, "Resources": {"CPU": 1.0}}
    monkeypatch.setattr("ray.nodes", lambda: [one, {**one, "Alive": False}])
    with pytest.raises(ValueError, match="one trial needs 2 CPUs"):
        Study(make_config(resources={"cpus_per_worker": 2}))._wait_for_place()
