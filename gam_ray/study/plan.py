"""How many trials fit on a cluster at a time, and what limits them; said before the start."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from gam_ray.config import ResourcesConfig

# Of a node's own resource, of which it has 1: who takes so much is on that node.
NODE_SHARE = 0.001


@dataclass(frozen=True)
class Plan:
    """The concurrency of a study.

    Attributes:
        lanes: Trials at a time.
        workers: Data-parallel workers of each.
        cpus_per_worker: Cores of each worker.
        gpus_per_worker: GPUs of each worker.
        limit: What keeps the lanes from being more.
    """

    lanes: int
    workers: int
    cpus_per_worker: float
    gpus_per_worker: float
    limit: str

    def __str__(self) -> str:
        on = f"{self.cpus_per_worker:g} CPU"
        if self.gpus_per_worker:
            on += f" and {self.gpus_per_worker:g} GPU"
        trials = "trial at a time" if self.lanes == 1 else "trials at a time"
        workers = "worker" if self.workers == 1 else "data-parallel workers"
        return (
            f"{self.lanes} {trials}, each on {self.workers} {workers} of {on}; "
            f"limited by {self.limit}"
        )


def plan_lanes(config: ResourcesConfig, nodes: Sequence[Mapping[str, float]], trials: int) -> Plan:
    """As many lanes as the cluster holds, at most one a trial.

    A worker is on one node; the workers of a lane may be on several.

    Args:
        config: What one trial needs.
        nodes: Ray's resources of each node, such as ``{"CPU": 8, "GPU": 2}``.
        trials: Trials to run.

    Raises:
        ValueError: If not even one trial fits, saying what lacks.
    """
    needs = {"CPU": config.cpus_per_worker, "GPU": config.gpus_per_worker}
    needs = {name: need for name, need in needs.items() if need > 0}
    fits = {
        f"{_total(nodes, name):g} {name}s": _workers(nodes, {name: need}) // config.workers
        for name, need in needs.items()
    }
    together = _workers(nodes, needs) // config.workers
    if together < min(fits.values()):
        fits[f"what {len(nodes)} nodes have of all that a worker needs"] = together
    fits[f"the number of trials ({trials})"] = trials
    if config.max_lanes is not None:
        fits[f"resources.max_lanes ({config.max_lanes})"] = config.max_lanes
    limit = min(fits, key=lambda name: fits[name])
    if not fits[limit]:
        need = ", ".join(f"{config.workers * each:g} {name}s" for name, each in needs.items())
        on = ", each worker's on one node" if len(nodes) > 1 else ""
        raise ValueError(
            f"one trial needs {need}{on}, but the cluster has {limit}; lower resources.workers, "
            "resources.cpus_per_worker or resources.gpus_per_worker, or use a larger cluster"
        )
    return Plan(
        lanes=fits[limit],
        workers=config.workers,
        cpus_per_worker=config.cpus_per_worker,
        gpus_per_worker=config.gpus_per_worker,
        limit=limit,
    )


def node_resource() -> str:
    """The name of Ray's resource that only this node has; Ray must have been started."""
    import ray

    here = ray.get_runtime_context().get_node_id()
    (node,) = (node for node in ray.nodes() if node["NodeID"] == here)
    return f"node:{node['NodeManagerAddress']}"


def _workers(nodes: Sequence[Mapping[str, float]], needs: Mapping[str, float]) -> int:
    """Workers that fit on the nodes, each on one of them."""
    return sum(
        min(math.floor(node.get(name, 0.0) / need + 1e-9) for name, need in needs.items())
        for node in nodes
    )


def _total(nodes: Sequence[Mapping[str, float]], name: str) -> float:
    return sum(node.get(name, 0.0) for node in nodes)
