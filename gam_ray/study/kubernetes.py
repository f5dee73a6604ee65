"""A study as a RayJob of Kubernetes, which KubeRay runs on a cluster made for it.

The manifest follows the study: a pod for every worker (or for as many as share a GPU), so many
pods as its lanes take, the storage where its file says. What it takes for granted, the claims
``studies`` and ``data``, is in ``jobs/kubernetes/base``.
"""

from __future__ import annotations

import hashlib
import math
import re
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from gam_ray.config import ResourcesConfig, StudyConfig
from gam_ray.study.doctor import GIB, LANE_MEMORY, STUDY_MEMORY, WORKER_MEMORY
from gam_ray.study.jobs import (
    STOP_ENVIRONMENT,
    STOPPED_EXIT_CODE,
    check_for_cluster,
    folder_of,
    study_text,
)
from gam_ray.study.versions import installed_version

# Of the image: docker/Dockerfile.
USER, DATA = 1000, "/data"
STUDY_FOLDER = "/etc/gam-ray"
# Ray's own processes on a node: head with dashboard and autoscaler; raylet and agents.
HEAD_MEMORY, NODE_MEMORY = 3 * GIB, 1 * GIB
# Ray takes up to 0.3 of a node's memory for its object store.
SHARE_FOR_WORK = 0.7
# What a process that uses CUDA takes more, without a task's images; assumed, not measured.
CUDA_MEMORY = 3 * GIB
HEAD_CPUS = 2
# KubeRay makes a new cluster for each further attempt, which takes the study up.
FURTHER_ATTEMPTS = 2
# Seconds in which a cluster whose study has ended can be looked at.
KEPT_S, KEPT_AFTER_FAILURE_S = 300, 3600
# KubeRay refuses longer names of a RayJob, from which it makes names of its own.
LONGEST_NAME = 47
# What docs/cluster.md builds.
IMAGE = "gam-ray"
# A secret that is made by hand; KubeRay's own, of the token, has the cluster's name.
ENVIRONMENT = "gam-ray-environment"

Manifest = dict[str, Any]


def render(config: StudyConfig, *, image: str = IMAGE, data_root: Path | None = None) -> str:
    """The manifests of a study as one YAML text, for ``kubectl apply``.

    Args:
        config: The study.
        image: Of head, workers and submitter.
        data_root: Folder of data sets in the pods; by default ``/data``.

    Raises:
        ValueError: If the study cannot run there, naming all that is wrong.
    """
    found = manifests(config, image=image, data_root=data_root)
    return yaml.dump_all(found, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=100)


def manifests(
    config: StudyConfig, *, image: str = IMAGE, data_root: Path | None = None
) -> tuple[Manifest, Manifest]:
    """The ConfigMap that holds a study's file, and the RayJob that runs it.

    Args:
        config: The study.
        image: Of head, workers and submitter.
        data_root: Folder of data sets in the pods; by default ``/data``.

    Raises:
        ValueError: If the study cannot run there, naming all that is wrong.
    """
    check_for_cluster(config, data_root)
    _check(config)
    name = object_name(config.name)
    metadata = {"name": name, "labels": {"app.kubernetes.io/name": "gam-ray"}}
    study = {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": metadata,
        "data": {"study.yaml": study_text(config)},
    }
    words = ["gam-ray", "run", f"{STUDY_FOLDER}/study.yaml", "--address", "auto"]
    words += ["--data-root", str(data_root)] if data_root else []
    job = {
        "apiVersion": "ray.io/v1",
        "kind": "RayJob",
        "metadata": metadata,
        "spec": {
            "jobId": config.name,
            "metadata": {
                "gam_ray.study": config.name,
                "gam_ray.attempt": "1",
                "gam_ray.folder": folder_of(config),
            },
            # A study that was stopped, or has spent its budget, has not failed.
            "entrypoint": f"{shlex.join(words)} || test $? -eq {STOPPED_EXIT_CODE}",
            "runtimeEnvYAML": yaml.safe_dump({"env_vars": STOP_ENVIRONMENT}),
            "backoffLimit": FURTHER_ATTEMPTS,
            "deletionStrategy": {
                "deletionRules": [
                    _deletion(KEPT_S, jobStatus="SUCCEEDED"),
                    _deletion(KEPT_AFTER_FAILURE_S, jobStatus="FAILED"),
                    _deletion(KEPT_AFTER_FAILURE_S, jobDeploymentStatus="Failed"),
                ]
            },
            "rayClusterSpec": _cluster(config, name, image, str(data_root or DATA)),
        },
    }
    return study, job


def object_name(study: str) -> str:
    """A study's name as Kubernetes takes it; different for studies of different names.

    It has at most 47 lower-case letters, digits and dashes, and begins with a letter.
    """
    name = re.sub(r"[^a-z0-9]+", "-", study.lower()).strip("-")
    if not name[:1].isalpha():
        name = f"study-{name}".rstrip("-")
    if name == study and len(name) <= LONGEST_NAME:
        return name
    digest = hashlib.sha256(study.encode()).hexdigest()[:6]
    return f"{name[: LONGEST_NAME - len(digest) - 1].rstrip('-')}-{digest}"


def _check(config: StudyConfig) -> None:
    problems = []
    if config.is_on_s3:
        problems.append(
            "storage: on S3 all trials run on the node of the study's process, which is the head "
            f"and does no work here, but got {config.storage!r}; use a folder such as /studies, "
            "where the claim of that name is put"
        )
    if config.resources.max_lanes is None:
        problems.append(
            "resources.max_lanes: must say how many trials run at a time, and so how many pods "
            "are started at most, but is not given; set it, such as max_lanes: 2"
        )
    if problems:
        raise ValueError("\n".join(problems))


def _deletion(seconds: int, **condition: str) -> Manifest:
    return {"policy": "DeleteCluster", "condition": {**condition, "ttlSeconds": seconds}}


def _cluster(config: StudyConfig, name: str, image: str, data: str) -> Manifest:
    resources = config.resources
    lanes = min(resources.max_lanes or 1, config.search.trials)
    in_pod = workers_in_pod(resources)
    pods = math.ceil(lanes * resources.workers / in_pod)
    grows = resources.autoscaling_wait_s > 0
    mounts = {"studies": config.storage, "data": data}
    claims = [{"name": claim, "persistentVolumeClaim": {"claimName": claim}} for claim in mounts]
    study = {"name": "study", "configMap": {"name": name}}
    head_memory = (HEAD_MEMORY + STUDY_MEMORY + lanes * LANE_MEMORY) / SHARE_FOR_WORK
    return {
        "rayVersion": installed_version("ray"),
        "authOptions": {"mode": "token"},
        "enableInTreeAutoscaling": grows,
        **({"autoscalerOptions": {"version": "v2", "idleTimeoutSeconds": 300}} if grows else {}),
        "headGroupSpec": {
            # No work, so that a busy study does not starve Ray's own processes.
            "rayStartParams": {"num-cpus": "0"},
            "template": _pod(
                "ray-head",
                image,
                {"cpu": str(HEAD_CPUS), "memory": _gibibytes(head_memory)},
                {**mounts, "study": STUDY_FOLDER},
                [*claims, study],
            ),
        },
        "workerGroupSpecs": [
            {
                "groupName": "workers",
                "replicas": 0 if grows else pods,
                "minReplicas": 0 if grows else pods,
                "maxReplicas": pods,
                "rayStartParams": {},
                "template": _pod(
                    "ray-worker", image, _worker_limits(resources, in_pod), mounts, claims
                ),
            }
        ],
    }


def workers_in_pod(resources: ResourcesConfig) -> int:
    """How many workers a pod has: those that share a GPU, else one."""
    share = resources.gpus_per_worker
    return math.floor(1 / share + 1e-9) if 0 < share < 1 else 1


def _worker_limits(resources: ResourcesConfig, workers: int) -> Mapping[str, str]:
    on_gpus = resources.gpus_per_worker > 0
    each = WORKER_MEMORY + (CUDA_MEMORY if on_gpus else GIB)
    limits = {
        "cpu": str(math.ceil(resources.cpus_per_worker * workers)),
        "memory": _gibibytes((NODE_MEMORY + each * workers) / SHARE_FOR_WORK),
    }
    if on_gpus:
        limits["nvidia.com/gpu"] = str(math.ceil(resources.gpus_per_worker))
    return limits


def _pod(
    container: str,
    image: str,
    limits: Mapping[str, str],
    mounts: Mapping[str, str],
    volumes: list[Manifest],
) -> Manifest:
    """The template of a pod: as the image's user, without rights that it does not need."""
    memory = {"name": "shared-memory", "emptyDir": {"medium": "Memory"}}
    return {
        "spec": {
            # Another pod is another node of Ray: none is used twice.
            "restartPolicy": "Never",
            # A service named mlflow would else set MLFLOW_PORT, which is also an option's.
            "enableServiceLinks": False,
            "securityContext": {
                "runAsNonRoot": True,
                "runAsUser": USER,
                "fsGroup": USER,
                "seccompProfile": {"type": "RuntimeDefault"},
            },
            "containers": [
                {
                    "name": container,
                    "image": image,
                    "imagePullPolicy": "IfNotPresent",
                    # Passwords of MLflow and databases, where there are any.
                    "envFrom": [{"secretRef": {"name": ENVIRONMENT, "optional": True}}],
                    "resources": {"requests": dict(limits), "limits": dict(limits)},
                    "securityContext": {
                        "allowPrivilegeEscalation": False,
                        "capabilities": {"drop": ["ALL"]},
                    },
                    "volumeMounts": [
                        *({"name": name, "mountPath": path} for name, path in mounts.items()),
                        {"name": "shared-memory", "mountPath": "/dev/shm"},  # noqa: S108 - Ray's
                    ],
                }
            ],
            "volumes": [*volumes, memory],
        }
    }


def _gibibytes(amount: float) -> str:
    return f"{math.ceil(amount / GIB)}Gi"


class _Dumper(yaml.SafeDumper):
    """Writes texts of several lines as blocks, and no anchors, which people do not expect."""

    def ignore_aliases(self, data: Any) -> bool:  # noqa: ARG002
        return True


def _text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    style = "|" if "\n" in text else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_Dumper.add_representer(str, _text)
