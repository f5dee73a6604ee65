"""A study as a RayJob: what KubeRay would be told."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import yaml
from kuberay import check_manifest, pod_specs

from gam_ray.config import StudyConfig
from gam_ray.config.loading import load_study_config
from gam_ray.study.kubernetes import manifests, object_name, render

STUDY: dict[str, Any] = {
    "name": "digits",
    "trial": {"task": {"source": "rendered-digits", "target": "handwritten-digits"}},
    "space": {"adaptation.weight": {"log": [0.1, 10]}},
    "search": {"trials": 12},
    "resources": {"max_lanes": 3},
    "storage": "/mnt/shared/studies",
}


def study(**changes: Any) -> StudyConfig:
    return StudyConfig.from_mapping({**STUDY, **changes})


def job(**changes: Any) -> dict[str, Any]:
    return manifests(study(**changes))[1]


def workers(manifest: dict[str, Any]) -> dict[str, Any]:
    (group,) = manifest["spec"]["rayClusterSpec"]["workerGroupSpecs"]
    return group


@pytest.mark.parametrize(
    "resources",
    [
        {"max_lanes": 3},
        {"max_lanes": 3, "autoscaling_wait_s": 600},
        {"max_lanes": 16, "workers": 2, "gpus_per_worker": 1, "autoscaling_wait_s": 600},
        {"max_lanes": 5, "gpus_per_worker": 0.5, "cpus_per_worker": 1.5},
    ],
)
def test_manifests_are_what_kubernetes_and_kuberay_take(resources: dict[str, Any]) -> None:
    for manifest in yaml.safe_load_all(render(study(resources=resources))):
        check_manifest(manifest)


def test_the_schemas_refuse_what_is_not_there() -> None:
    good = job()
    for break_it in (
        lambda bad: bad["spec"].update(shutdownAfterJobFinishes=True),  # excludes deletionRules
        lambda bad: bad["spec"]["deletionStrategy"]["deletionRules"][0].update(policy="Delete"),
        lambda bad: workers(bad).update(maxReplica=3),
        lambda bad: bad["metadata"].update(name="Digits"),
    ):
        bad = copy.deepcopy(good)
        break_it(bad)
        with pytest.raises(jsonschema.ValidationError):
            check_manifest(bad)
    bad = copy.deepcopy(good)
    next(pod_specs(bad))["containers"][0]["resource"] = {}
    with pytest.raises(kubernetes_validate.ValidationError):
        check_manifest(bad)


def test_the_study_that_travels_is_the_study(tmp_path: Path) -> None:
    config = study(search={"trials": 12, "seed": 7})
    configmap, ray_job = manifests(config)
    file = tmp_path / "study.yaml"
    file.write_text(configmap["data"]["study.yaml"])
    assert load_study_config(file) == config
    head = next(pod_specs(ray_job))
    (path,) = (
        mount["mountPath"] for mount in head["containers"][0]["volumeMounts"]
        if mount["name"] == "study"
    )  # fmt: skip
    assert f"gam-ray run {path}/study.yaml --address auto" in ray_job["spec"]["entrypoint"]
    (volume,) = (volume for volume in head["volumes"] if volume["name"] == "study")
    assert volume["configMap"]["name"] == configmap["metadata"]["name"]


def test_the_storage_and_the_data_are_where_the_study_looks_for_them() -> None:
    manifest = manifests(study(), data_root=Path("/mnt/my data"))[1]
    assert manifest["spec"]["entrypoint"].startswith(
        "gam-ray run /etc/gam-ray/study.yaml --address auto --data-root '/mnt/my data' || "
    )
    for pod in pod_specs(manifest):
        mounted = {each["name"]: each["mountPath"] for each in pod["containers"][0]["volumeMounts"]}
        assert mounted["studies"] == "/mnt/shared/studies"
        assert mounted["data"] == "/mnt/my data"
        claims = {
            each["name"]: each["persistentVolumeClaim"]["claimName"]
            for each in pod["volumes"] if "persistentVolumeClaim" in each
        }  # fmt: skip
        assert claims == {"studies": "studies", "data": "data"}


def test_commands_find_the_job_by_the_studys_name() -> None:
    spec = job(name="Digits_2")["spec"]
    assert spec["jobId"] == "Digits_2"
    assert spec["metadata"] == {
        "gam_ray.study": "Digits_2",
        "gam_ray.attempt": "1",
        "gam_ray.folder": "/mnt/shared/studies/Digits_2",
    }


def test_a_stop_in_order_is_no_failure_to_repeat(tmp_path: Path) -> None:
    import subprocess

    entrypoint = job()["spec"]["entrypoint"]
    command = tmp_path / "gam-ray"
    for code, ends in ((0, 0), (1, 1), (2, 1), (3, 0)):
        command.write_text(f"#!/bin/sh\nexit {code}\n")
        command.chmod(0o755)
        done = subprocess.run(
            ["sh", "-c", entrypoint], env={"PATH": f"{tmp_path}:/usr/bin:/bin"}, check=False
        )
        assert done.returncode == ends, code


def test_stopping_a_job_interrupts_the_study() -> None:
    env = yaml.safe_load(job()["spec"]["runtimeEnvYAML"])
    assert env == {"env_vars": {"RAY_JOB_STOP_SIGNAL": "SIGINT", "RAY_JOB_STOP_WAIT_TIME_S": "60"}}


@pytest.mark.parametrize(
    ("resources", "pods", "limits"),
    [
        ({"max_lanes": 3}, 3, {"cpu": "1"}),
        ({"max_lanes": 3, "workers": 2, "cpus_per_worker": 4}, 6, {"cpu": "4"}),
        (
            {"max_lanes": 3, "workers": 2, "gpus_per_worker": 1, "cpus_per_worker": 4},
            6,
            {"cpu": "4", "nvidia.com/gpu": "1"},
        ),
        ({"max_lanes": 5, "gpus_per_worker": 0.5}, 3, {"cpu": "2", "nvidia.com/gpu": "1"}),
        ({"max_lanes": 4, "gpus_per_worker": 0.3}, 2, {"cpu": "3", "nvidia.com/gpu": "1"}),
        ({"max_lanes": 1, "gpus_per_worker": 2}, 1, {"cpu": "1", "nvidia.com/gpu": "2"}),
        ({"max_lanes": 99}, 12, {"cpu": "1"}),  # never more than trials
    ],
)
def test_the_pods_hold_the_lanes(
    resources: dict[str, Any], pods: int, limits: dict[str, str]
) -> None:
    group = workers(job(resources=resources))
    assert group["maxReplicas"] == pods
    found = group["template"]["spec"]["containers"][0]["resources"]
    assert found["limits"] == found["requests"]
    assert {**found["limits"], "memory": "any"} == {**limits, "memory": "any"}


def test_a_study_that_does_not_wait_for_nodes_gets_them_all_first() -> None:
    fixed = job()["spec"]["rayClusterSpec"]
    assert (fixed["enableInTreeAutoscaling"], "autoscalerOptions" in fixed) == (False, False)
    assert workers(job())["minReplicas"] == 3
    grows = job(resources={"max_lanes": 3, "autoscaling_wait_s": 60})
    assert grows["spec"]["rayClusterSpec"]["enableInTreeAutoscaling"]
    assert (workers(grows)["minReplicas"], workers(grows)["maxReplicas"]) == (0, 3)


def test_pods_run_as_the_images_user_on_a_head_without_work() -> None:
    manifest = job()
    cluster = manifest["spec"]["rayClusterSpec"]
    assert cluster["headGroupSpec"]["rayStartParams"] == {"num-cpus": "0"}
    assert cluster["authOptions"] == {"mode": "token"}
    for pod in pod_specs(manifest):
        assert pod["securityContext"]["runAsNonRoot"]
        assert pod["securityContext"]["runAsUser"] == 1000
        assert not pod["enableServiceLinks"]


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"resources": {}}, "resources.max_lanes"),
        ({"storage": "studies"}, "absolute path"),
        ({"storage": "s3://bucket/studies"}, "storage: on S3 all trials run on the node"),
    ],
)
def test_what_cannot_run_there_is_refused(changes: dict[str, Any], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        manifests(study(**changes))


def test_names_are_kubernetes_names_and_stay_apart() -> None:
    names = ["digits", "Digits", "digits_2", "digits.2", "digits-2", "2digits", "a" * 60, "a" * 61]
    found = [object_name(name) for name in names]
    assert found[0] == "digits"
    assert found[4] == "digits-2"
    assert len(set(found)) == len(names)
    for name in found:
        check_manifest({**job(), "metadata": {"name": name}})
