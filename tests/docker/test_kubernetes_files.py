"""The manifests of jobs/kubernetes: kustomize builds them, and Kubernetes would take them."""

from __future__ import annotations

import copy
import shutil
import subprocess
from functools import cache
from typing import Any

import pytest
import yaml
from container_files import KUBERNETES, ROOT, manifests_in, parse_command
from kuberay import check_manifest, pod_specs

from gam_ray.config import load_study_config
from gam_ray.study.kubernetes import manifests, render

STUDY = load_study_config(ROOT / "jobs" / "cluster.yaml")
OVERLAYS = sorted(folder.name for folder in (KUBERNETES / "overlays").iterdir())
BASE = [
    manifest
    for file in sorted((KUBERNETES / "base").glob("*.yaml"))
    if file.name != "kustomization.yaml"
    for manifest in manifests_in(file)
]


def of(kind: str, among: list[dict[str, Any]] = BASE) -> dict[str, dict[str, Any]]:
    return {each["metadata"]["name"]: each for each in among if each["kind"] == kind}


@cache
def built(overlay: str) -> list[dict[str, Any]]:
    """An overlay as kustomize makes it."""
    for words in (["kustomize", "build"], ["kubectl", "kustomize"]):
        if shutil.which(words[0]):
            folder = str(KUBERNETES / "overlays" / overlay)
            done = subprocess.run([*words, folder], capture_output=True, text=True, check=False)
            assert done.returncode == 0, done.stderr
            return list(yaml.safe_load_all(done.stdout))
    pytest.skip("neither kustomize nor kubectl is installed")


@pytest.mark.parametrize(
    "manifest", BASE, ids=[f"{each['kind']}-{each['metadata']['name']}" for each in BASE]
)
def test_the_base_is_valid(manifest: dict[str, Any]) -> None:
    check_manifest(manifest)


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_an_overlay_is_valid_and_has_all_of_the_base(overlay: str) -> None:
    found = built(overlay)
    for manifest in found:
        check_manifest(manifest)
    names = sorted((each["kind"], each["metadata"]["name"]) for each in found)
    assert names == sorted((each["kind"], each["metadata"]["name"]) for each in BASE)


def test_overlays_are_the_two() -> None:
    assert OVERLAYS == ["cpu-small", "gpu"]


def test_the_job_is_what_the_command_writes() -> None:
    written = manifests_in(KUBERNETES / "rayjob.yaml")
    assert written == list(yaml.safe_load_all(render(STUDY)))


def test_all_files_of_the_base_are_in_it() -> None:
    listed = yaml.safe_load((KUBERNETES / "base" / "kustomization.yaml").read_text())["resources"]
    there = {file.name for file in (KUBERNETES / "base").glob("*.yaml")} - {"kustomization.yaml"}
    assert set(listed) == there


def test_the_cluster_has_the_same_pods_as_a_jobs_own() -> None:
    """But for the study's file, and sizes."""
    ours = copy.deepcopy(list(pod_specs(of("RayCluster")["gam-ray"])))
    jobs = list(pod_specs(manifests(STUDY)[1]))
    assert len(ours) == len(jobs) == 2
    for pod, other in zip(ours, jobs, strict=True):
        (container,), (theirs,) = pod.pop("containers"), other.pop("containers")
        container.pop("resources"), theirs.pop("resources")
        theirs["volumeMounts"] = [m for m in theirs["volumeMounts"] if m["name"] != "study"]
        other["volumes"] = [v for v in other["volumes"] if v["name"] != "study"]
        assert container == theirs
        assert pod == other


def test_the_cluster_is_the_rays_that_is_locked_with_a_token_and_a_head_without_work() -> None:
    cluster, job = of("RayCluster")["gam-ray"]["spec"], manifests(STUDY)[1]["spec"]
    for name in ("rayVersion", "authOptions", "enableInTreeAutoscaling", "autoscalerOptions"):
        assert cluster[name] == job["rayClusterSpec"][name]
    assert cluster["headGroupSpec"]["rayStartParams"] == {"num-cpus": "0"}
    assert f"ray=={cluster['rayVersion']}" in (ROOT / "constraints.txt").read_text().split()


def test_the_secret_of_passwords_is_not_the_one_that_kuberay_makes() -> None:
    """That of the token has the cluster's name."""
    for manifest in (*of("RayCluster").values(), manifests(STUDY)[1]):
        for pod in pod_specs(manifest):
            for source in pod["containers"][0]["envFrom"]:
                assert source["secretRef"]["name"] != manifest["metadata"]["name"]


def test_claims_are_there_and_writable_by_several_nodes() -> None:
    claims = of("PersistentVolumeClaim")
    for manifest in (*of("RayCluster").values(), *of("Deployment").values(), manifests(STUDY)[1]):
        for pod in pod_specs(manifest):
            wanted = {
                volume["persistentVolumeClaim"]["claimName"]
                for volume in pod["volumes"] if "persistentVolumeClaim" in volume
            }  # fmt: skip
            assert wanted <= claims.keys()
    for name in ("studies", "data"):
        assert claims[name]["spec"]["accessModes"] == ["ReadWriteMany"]


def test_a_study_finds_mlflow() -> None:
    deployment, service = of("Deployment")["mlflow"], of("Service")["mlflow"]
    pod = deployment["spec"]["template"]
    labels = pod["metadata"]["labels"]
    assert service["spec"]["selector"].items() <= labels.items()
    assert deployment["spec"]["selector"]["matchLabels"].items() <= labels.items()
    (container,), (port,) = pod["spec"]["containers"], service["spec"]["ports"]
    assert STUDY.tracking.uri == f"http://mlflow:{port['port']}"
    options = parse_command(container["command"])
    assert options["port"] == container["ports"][0]["containerPort"] == port["port"]
    hosts = options["allowed_hosts"].split(",")
    assert f"mlflow:{port['port']}" in hosts
    for probe in ("readinessProbe", "livenessProbe"):
        (header,) = container[probe]["httpGet"]["httpHeaders"]
        assert header["value"].partition(":")[0] in {host.partition(":")[0] for host in hosts}
    assert not pod["spec"]["enableServiceLinks"]
    (mount,) = container["volumeMounts"]
    assert options["backend_store_uri"].startswith(f"sqlite:///{mount['mountPath']}/")
    assert options["artifacts_destination"].startswith(f"{mount['mountPath']}/")


def test_gpu_workers_have_a_gpu_and_come_only_when_asked_for() -> None:
    (group,) = of("RayCluster", built("gpu"))["gam-ray"]["spec"]["workerGroupSpecs"]
    resources = group["template"]["spec"]["containers"][0]["resources"]
    assert resources["limits"]["nvidia.com/gpu"] == "1"
    assert resources["limits"] == resources["requests"]
    assert (group["minReplicas"], group["replicas"]) == (0, 0)
    assert group["maxReplicas"] > 1


def test_the_small_form_fits_one_small_node() -> None:
    found = built("cpu-small")
    for claim in of("PersistentVolumeClaim", found).values():
        assert claim["spec"]["accessModes"] == ["ReadWriteOnce"]
    memory = [
        int(pod["containers"][0]["resources"]["requests"]["memory"].removesuffix("Gi"))
        for manifest in (*of("RayCluster", found).values(), *of("Deployment", found).values())
        for pod in pod_specs(manifest)
    ]
    assert sum(memory) <= 14  # of the 16 GiB that the file speaks of


@pytest.mark.parametrize("file", ["rayjob.yaml", "overlays/gpu/kustomization.yaml"])
def test_what_a_taint_needs_is_said_in_a_comment(file: str) -> None:
    lines = (KUBERNETES / file).read_text().splitlines()
    said = [line.strip() for line in lines if "tolerations" in line]
    assert said
    assert all(line.startswith("#") for line in said)
