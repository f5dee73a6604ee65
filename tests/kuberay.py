"""Holds manifests against Kubernetes' own schemas and, for KubeRay's kinds, against one of ours."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate

SCHEMA = json.loads(Path(__file__).with_name("kuberay_schema.json").read_text(encoding="utf-8"))
KUBERNETES = "1.32"


def pod_specs(manifest: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The pods that a RayJob, a RayCluster or a Deployment is made of: head, then workers."""
    spec = manifest["spec"]
    cluster = spec.get("rayClusterSpec", spec)
    if "headGroupSpec" not in cluster:
        if "template" in cluster:
            yield cluster["template"]["spec"]
        return
    yield cluster["headGroupSpec"]["template"]["spec"]
    for group in cluster["workerGroupSpecs"]:
        yield group["template"]["spec"]


def check_manifest(manifest: dict[str, Any]) -> None:
    """Raise where a manifest has a field that is not there, lacks one, or has a wrong value."""
    if manifest["apiVersion"].startswith("ray.io/"):
        jsonschema.Draft202012Validator(SCHEMA).validate(manifest)
        for spec in pod_specs(manifest):
            pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "pod"}, "spec": spec}
            kubernetes_validate.validate(pod, KUBERNETES, strict=True)
    else:
        kubernetes_validate.validate(manifest, KUBERNETES, strict=True)
