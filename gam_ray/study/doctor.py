"""Checks of a machine or a cluster before a study loses an hour, each with what to do.

Facts are gathered (`facts_here`, on a cluster by one small task pinned to each node) and then
judged by functions of the facts alone.
"""

from __future__ import annotations

import base64
import json
import logging
import os
import secrets
import shutil
import socket
import time
import urllib.error
import urllib.request
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any, Literal

from gam_ray.config import StudyConfig
from gam_ray.config.secrets import masked
from gam_ray.study.bucket import Bucket
from gam_ray.study.plan import Plan, node_resource, plan_lanes
from gam_ray.study.versions import all_versions

GIB = 2**30
# Resident memory in bytes, as measured with ray 2.60 and torch 2.15, without a task's images.
WORKER_MEMORY, LANE_MEMORY, STUDY_MEMORY = 0.6 * GIB, 0.7 * GIB, 1.5 * GIB
LEAST_FREE, LITTLE_FREE = 1 * GIB, 10 * GIB
NODE_TIMEOUT_S = 120.0
# A domain may have to be read whole.
DATA_TIMEOUT_S = 900.0
# Until then a file written on one node must show on another: NFS keeps directories for a while.
SEEN_WITHIN_S = 30.0
HTTP_TIMEOUT_S = 10.0

State = Literal["ok", "warning", "failed"]


@dataclass(frozen=True)
class Check:
    """One thing that was looked at.

    Attributes:
        name: What: ``versions``, ``bytecode``, ``gpus``, ``storage``, ``mlflow``, ``data``,
            ``memory``, ``disk``, ``auth``, ``nodes`` or ``plan``.
        state: ``ok``, ``warning`` or ``failed``.
        found: What was found, and where.
        remedy: What to do about it; None if all is well.
    """

    name: str
    state: State
    found: str
    remedy: str | None = None

    def to_mapping(self) -> dict[str, Any]:
        """The check as plain data, for scripts."""
        return asdict(self)


@dataclass(frozen=True)
class Facts:
    """What one node says of itself.

    Attributes:
        node: Its name for people: the host and, on a cluster, the address.
        versions: Of Python, gam_ray and packages.
        gpus: That torch sees.
        free_disk: Bytes free where the node's Ray keeps its files.
        auth_mode: RAY_AUTH_MODE as its processes have it.
        has_bytecode: Whether its packages are compiled.
        has_mps: Whether NVIDIA's MPS runs, by which processes share a GPU.
        ray_gpus: That Ray hands out; None where there is no Ray.
    """

    node: str
    versions: dict[str, str]
    gpus: int
    free_disk: int
    auth_mode: str
    has_bytecode: bool = field(default=True, kw_only=True)
    has_mps: bool = field(default=False, kw_only=True)
    ray_gpus: float | None = field(default=None, kw_only=True)


def check_machine(config: StudyConfig | None, data_root: Path | None) -> list[Check]:
    """Check this machine alone, without starting Ray.

    Args:
        config: The study to check for, or None.
        data_root: Folder of data sets.
    """
    here = facts_here()
    checks = [
        judge_versions([here]),
        judge_bytecode([here]),
        judge_gpus([here], config),
        judge_disk([here]),
        judge_auth([here], own=True),
    ]
    if config:
        available = _memory_here()
        cluster = {"CPU": float(os.cpu_count() or 1), "GPU": float(here.gpus), "memory": available}
        checks += [
            *judge_plan(config, [cluster]),
            check_storage_here(_storage(config)),
            check_mlflow(config.tracking.uri),
            judge_data({here.node: data_problem(config, data_root)}),
        ]
    return checks


def check_cluster(address: str, config: StudyConfig | None, data_root: Path | None) -> list[Check]:
    """Check every node of a Ray cluster that this machine is part of.

    Args:
        address: Ray's own, such as ``auto`` or ``head:6379``.
        config: The study to check for, or None.
        data_root: Folder of data sets, as the nodes see it.

    Raises:
        StudyError: If no such cluster can be joined.
    """
    from gam_ray.study.errors import StudyError
    from gam_ray.study.jobs import use_token

    use_token()
    # Also without a GPU of its own, the task that looks must see the node's.
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    import ray

    try:
        ray.init(address, namespace="gam_ray", log_to_driver=False, logging_level=logging.ERROR)
    except Exception as error:
        raise StudyError(
            f"cannot join the Ray cluster at {address} ({error}); give auto on one of its nodes, "
            "HEAD:6379 where this machine is one, or the dashboard's http://HEAD:8265"
        ) from error
    try:
        return _check_nodes(_Nodes(), config, data_root)
    finally:
        ray.shutdown()


def _check_nodes(nodes: _Nodes, config: StudyConfig | None, data_root: Path | None) -> list[Check]:
    facts, silent = nodes.ask(facts_here, timeout_s=NODE_TIMEOUT_S)
    known = [_on(node, nodes, answer) for node, answer in facts.items()]
    checks = [judge_nodes(nodes.names, silent)]
    if not known:
        return checks
    checks += [
        judge_versions([*known, _renamed(facts_here(), "here")]),
        judge_bytecode(known),
        judge_gpus(known, config),
        judge_disk(known),
        judge_auth(known, own=False),
    ]
    if config:
        problems, late = nodes.ask(
            data_problem, config, data_root, nodes=list(facts), timeout_s=DATA_TIMEOUT_S
        )
        checks += [
            *judge_plan(config, nodes.resources_for(config)),
            check_shared_storage(nodes, list(facts), _storage(config)),
            # From here: the study's process, which talks to MLflow, runs where this one does.
            check_mlflow(config.tracking.uri),
            judge_data({nodes.names[node]: told for node, told in {**problems, **late}.items()}),
        ]
    return checks


def parse_report(text: str) -> list[Check]:
    """The checks in what a job printed that ran ``gam-ray doctor --json``.

    Raises:
        StudyError: If there are none, with the end of what it printed.
    """
    from gam_ray.study.errors import StudyError

    decoder = json.JSONDecoder()
    for start in _line_starts(text, "{"):
        try:
            content, _ = decoder.raw_decode(text, start)
            return [Check(**check) for check in content["checks"]]
        except (ValueError, KeyError, TypeError):
            continue
    end = "\n".join(text.splitlines()[-15:])
    raise StudyError(
        "the doctor could not run as a job of the cluster: its nodes may lack Python packages "
        f"that gam_ray needs (see docs/cli.md); it printed\n{end}"
    )


def _line_starts(text: str, first: str) -> Iterable[int]:
    """Where lines begin that start with `first`."""
    position = 0
    for line in text.splitlines(keepends=True):
        if line.startswith(first):
            yield position
        position += len(line)


# Facts.


def facts_here() -> Facts:
    """What this node says of itself."""
    import torch

    temporary = Path(os.environ.get("RAY_TMPDIR", "/tmp"))  # noqa: S108 - Ray's own default
    return Facts(
        node=socket.gethostname(),
        versions=all_versions(),
        gpus=torch.cuda.device_count(),
        free_disk=shutil.disk_usage(temporary).free,
        auth_mode=_auth_mode(),
        has_bytecode=_has_bytecode(torch),
        has_mps=_has_mps(),
    )


def _has_bytecode(package: ModuleType) -> bool:
    """Whether a package is compiled; else, as it has just been imported, it could not be kept."""
    spec = package.__spec__
    return spec is not None and spec.cached is not None and Path(spec.cached).exists()


def _has_mps() -> bool:
    """As CUDA looks for it: by the pipe of its daemon."""
    folder = os.environ.get("CUDA_MPS_PIPE_DIRECTORY", "/tmp/nvidia-mps")  # noqa: S108 - CUDA's
    return (Path(folder) / "control").exists()


def data_problem(config: StudyConfig, data_root: Path | None) -> str | None:
    """Why a study's images cannot be read on this node; None if they can."""
    from gam_ray.training.data import load_task

    try:
        load_task(config.trial.task, data_root)
    except (OSError, ValueError) as error:  # DataMissingError is one
        return f"{error}"
    return None


def write_probe(folder: Path | str, name: str) -> str | None:
    """Write a file in a folder or, by its address, a bucket; why that cannot be, or None."""
    try:
        if isinstance(folder, str):
            bucket = Bucket(folder)
            bucket.check()
            bucket.write(name, name.encode())
            return None
        folder.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(name)
    except (OSError, ValueError) as error:
        return f"{error}"
    return None


def unseen_probes(
    folder: Path | str, names: list[str], within_s: float = SEEN_WITHIN_S
) -> list[str]:
    """Which of these files do not show here in time, with what was written in them."""
    deadline = time.monotonic() + within_s
    while unseen := [name for name in names if not _reads(folder, name)]:
        if time.monotonic() > deadline:
            break
        time.sleep(0.5)
    return unseen


def _reads(folder: Path | str, name: str) -> bool:
    try:
        if isinstance(folder, str):
            return Bucket(folder).read(name) == name.encode()
        return (folder / name).read_text() == name
    except OSError:
        return False


def _auth_mode() -> str:
    return os.environ.get("RAY_AUTH_MODE", "not set")


def _memory_here() -> float:
    """Bytes of memory in this machine, or in its container if that has less."""
    total = float(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    try:
        limit = Path("/sys/fs/cgroup/memory.max").read_text().strip()
    except OSError:
        return total
    return min(total, float(limit)) if limit.isdigit() else total


# Judgements.


def judge_nodes(names: Mapping[str, str], silent: Mapping[str, str]) -> Check:
    """Whether every node answered.

    Args:
        names: Node id → name for people.
        silent: Node id → why there is no answer.
    """
    if not silent:
        return Check("nodes", "ok", f"{_count(len(names), 'node')} answered")
    told = "; ".join(f"{names[node]}: {error}" for node, error in silent.items())
    remedy = (
        "see that the node is up and has the same Python, Ray and gam_ray as the others; `ray "
        "status` and its raylet's log in /tmp/ray/session_latest/logs say more"
    )
    return Check("nodes", "failed", told, remedy)


def judge_versions(nodes: list[Facts]) -> Check:
    """Whether Python and all packages are the same on all nodes, and none is missing."""
    missing, differ = [], []
    for package in nodes[0].versions:
        where = defaultdict(list)
        for facts in nodes:
            where[facts.versions[package]].append(facts.node)
        # gam_ray's own has no version where its code came along with a job.
        if "none" in where and package != "gam-ray":
            missing.append(f"{package} on {', '.join(where['none'])}")
        elif len({version for version in where if version != "none"}) > 1:
            told = ", ".join(f"{v} on {'/'.join(names)}" for v, names in where.items())
            differ.append(f"{package}: {told}")
    if missing or differ:
        found = "; ".join([*(f"missing: {each}" for each in missing), *differ])
        remedy = "install the same versions on all nodes and where you submit; one image does it"
        return Check("versions", "failed", found, remedy)
    told = ", ".join(f"{name} {version}" for name, version in nodes[0].versions.items())
    return Check("versions", "ok", told)


def judge_bytecode(nodes: list[Facts]) -> Check:
    """Whether processes start fast: those of a study import torch, Ray and MLflow."""
    if slow := [facts.node for facts in nodes if not facts.has_bytecode]:
        remedy = (
            "install with `uv pip install --compile-bytecode` or with pip, or let Python keep what "
            "it compiles: unset PYTHONDONTWRITEBYTECODE, and make site-packages writable"
        )
        told = f"on {', '.join(slow)} every process compiles its packages anew, for seconds"
        return Check("bytecode", "warning", told, remedy)
    return Check("bytecode", "ok", "packages are compiled")


def judge_gpus(nodes: list[Facts], config: StudyConfig | None) -> Check:
    """Whether torch sees the GPUs that Ray hands out, and a study gets those it asks for."""
    wrong = [
        f"{facts.node}: Ray has {facts.ray_gpus:g}, torch sees {facts.gpus}"
        for facts in nodes
        if facts.ray_gpus is not None and facts.ray_gpus != facts.gpus
    ]
    if wrong:
        remedy = (
            "install a torch that goes with the node's driver (`nvidia-smi`, `python -c 'import "
            "torch; print(torch.cuda.is_available())'`), give the container its GPUs, or start the "
            "node with the right --num-gpus"
        )
        return Check("gpus", "failed", "; ".join(wrong), remedy)
    total = sum(facts.gpus for facts in nodes)
    found = f"torch sees {_count(total, 'GPU')} on {_count(len(nodes), 'node')}"
    asked = config.resources.gpus_per_worker if config else 0
    if asked and not total:
        remedy = "set resources.gpus_per_worker: 0 to train on CPUs, or use machines with GPUs"
        return Check(
            "gpus", "failed", f"{found}, but the study asks for {asked:g} a worker", remedy
        )
    if config and total and not asked:
        remedy = "set resources.gpus_per_worker in the study file, such as 1 or 0.5"
        return Check("gpus", "warning", f"{found}, but the study asks for none", remedy)
    alone = [facts.node for facts in nodes if facts.gpus and not facts.has_mps]
    if 0 < asked < 1 and alone:
        remedy = (
            "start NVIDIA's MPS before Ray there, `nvidia-cuda-mps-control -d`: eight small "
            "trials then do more than twice the steps"
        )
        told = f"{found}; trials that share one take turns, without MPS on {', '.join(alone)}"
        return Check("gpus", "warning", told, remedy)
    return Check("gpus", "ok", found)


def judge_disk(nodes: list[Facts]) -> Check:
    """Whether Ray has room for its files on every node."""
    least = min(nodes, key=lambda facts: facts.free_disk)
    found = f"{least.free_disk / GIB:.0f} GiB free for Ray's files, least on {least.node}"
    return _judge_free("disk", least.free_disk, found)


def _judge_free(name: str, free: int, found: str) -> Check:
    if free >= LITTLE_FREE:
        return Check(name, "ok", found)
    remedy = "make room: checkpoints, logs and spilled objects take gigabytes"
    return Check(name, "failed" if free < LEAST_FREE else "warning", found, remedy)


def judge_auth(nodes: list[Facts], *, own: bool) -> Check:
    """Whether a token guards the cluster.

    Args:
        nodes: All of them.
        own: Whether Ray will be started by the study itself, which sets a token.
    """
    modes = sorted({facts.auth_mode for facts in nodes})
    if own and modes == ["not set"]:
        return Check("auth", "ok", "a Ray that a study starts here lets only its token in")
    if modes == ["token"]:
        return Check("auth", "ok", "token")
    if "token" in modes:
        remedy = "start every node with RAY_AUTH_MODE=token and the same token"
        return Check("auth", "failed", f"nodes differ: {', '.join(modes)}", remedy)
    remedy = (
        "whoever reaches the ports can run code: start all nodes with RAY_AUTH_MODE=token and one "
        "~/.ray/auth_token (`ray get-auth-token --generate`), or close the ports to others"
    )
    return Check("auth", "warning", f"RAY_AUTH_MODE is {', '.join(modes)}", remedy)


def judge_plan(config: StudyConfig, nodes: Sequence[Mapping[str, float]]) -> list[Check]:
    """How many trials run at a time, and whether the memory goes with that.

    Args:
        config: The study.
        nodes: Ray's resources of each node; ``memory`` in bytes.
    """
    try:
        plan = plan_lanes(config.resources, nodes, config.search.trials)
    except ValueError as error:
        remedy = "lower resources in the study file, or use a larger cluster"
        return [Check("plan", "failed", str(error), remedy)]
    memory = sum(node.get("memory", 0.0) for node in nodes)
    return [Check("plan", "ok", str(plan)), _judge_memory(plan, memory)]


def _judge_memory(plan: Plan, memory: float) -> Check:
    need = STUDY_MEMORY + plan.lanes * (LANE_MEMORY + plan.workers * WORKER_MEMORY)
    found = (
        f"{memory / GIB:.1f} GiB, of which {_count(plan.lanes, 'lane')} and the study take about "
        f"{need / GIB:.1f} without images"
    )
    if need <= memory:
        return Check("memory", "ok", found)
    fit = int((memory - STUDY_MEMORY) / (LANE_MEMORY + plan.workers * WORKER_MEMORY))
    remedy = f"set resources.max_lanes: {max(1, fit)}, or use nodes with more memory"
    return Check("memory", "warning", found, remedy)


def judge_data(problems: Mapping[str, str | None]) -> Check:
    """Whether every node reads the study's images.

    Args:
        problems: Node's name → why it cannot, or None.
    """
    bad = {node: problem for node, problem in problems.items() if problem}
    if not bad:
        return Check("data", "ok", f"images read on {_count(len(problems), 'node')}")
    by_problem = defaultdict(list)
    for node, problem in bad.items():
        by_problem[problem].append(node)
    found = "; ".join(f"{', '.join(nodes)}: {problem}" for problem, nodes in by_problem.items())
    remedy = (
        "put the data sets where these nodes see them, and name the folder by GAM_RAY_DATA there "
        "or by --data-root"
    )
    return Check("data", "failed", found, remedy)


# Services.


def _storage(config: StudyConfig) -> Path | str:
    """The folder of studies, or the address of a bucket's."""
    return config.storage.rstrip("/") if config.is_on_s3 else config.folder.parent


def check_storage_here(storage: Path | str) -> Check:
    """Whether this machine can write the studies' folder and read it back, and has room there."""
    if isinstance(storage, str):
        return _check_bucket_here(storage)
    name = f".doctor-{secrets.token_hex(4)}"
    missing = not storage.exists()
    problem = write_probe(storage, name)
    try:
        if problem or unseen_probes(storage, [name], within_s=0):
            return _unwritten({"here": problem or "what was written does not read back"}, storage)
        free = shutil.disk_usage(storage).free
    finally:
        with suppress(OSError):  # what could not be written is not there
            (storage / name).unlink()
            if missing:
                storage.rmdir()
    return _judge_free("storage", free, f"{storage} is written and read; {free / GIB:.0f} GiB free")


def _check_bucket_here(storage: str) -> Check:
    name = f".doctor-{secrets.token_hex(4)}"
    problem = write_probe(storage, name)
    if problem:
        return _unwritten({"here": problem}, storage)
    unseen = unseen_probes(storage, [name], within_s=0)
    with suppress(OSError):
        Bucket(storage).delete(name)
    if unseen:
        return _unwritten({"here": "what was written does not read back"}, storage)
    return Check("storage", "ok", f"{storage} is written and read")


def check_shared_storage(nodes: _Nodes, alive: list[str], storage: Path | str) -> Check:
    """Whether what each node writes into the studies' folder is read by every other."""
    name = f".doctor-{secrets.token_hex(4)}"
    folder = f"{storage}/{name}" if isinstance(storage, str) else storage / name
    try:
        written, late = nodes.ask(
            write_probe, folder, nodes=alive, each=lambda node: node, timeout_s=NODE_TIMEOUT_S
        )
        bad = {node: told for node, told in {**written, **late}.items() if told}
        if bad:
            return _unwritten({nodes.names[node]: told for node, told in bad.items()}, storage)
        unseen, late = nodes.ask(unseen_probes, folder, alive, nodes=alive)
        if late:
            told = {nodes.names[node]: error for node, error in late.items()}
            return _unwritten(told, storage)
        return judge_seen(nodes.names, unseen, storage)
    finally:
        nodes.ask(_remove, folder, nodes=alive)
        _remove(folder)


def judge_seen(
    names: Mapping[str, str], unseen: Mapping[str, list[str]], storage: Path | str
) -> Check:
    """Whether every node reads what every other wrote.

    Args:
        names: Node id → name for people.
        unseen: Reader's id → ids of the writers whose files it does not see.
        storage: The folder.
    """
    blind = [
        f"{names[reader]} does not see what {', '.join(names[writer] for writer in writers)} wrote"
        for reader, writers in unseen.items()
        if writers
    ]
    if not blind:
        found = f"{storage}: each of {_count(len(unseen), 'node')} reads what the others wrote"
        return Check("storage", "ok", found)
    remedy = f"mount one shared folder, such as NFS, at {storage} on every node"
    if isinstance(storage, str):
        remedy = "give every node the same AWS_ENDPOINT_URL and keys that read all objects"
    return Check("storage", "failed", "; ".join(blind), remedy)


def _unwritten(problems: Mapping[str, str], storage: Path | str) -> Check:
    found = "; ".join(f"{node}: {problem}" for node, problem in problems.items())
    remedy = f"let the user that runs Ray write {storage} on every node, or set another storage"
    if isinstance(storage, str):
        remedy = (
            "set AWS_ENDPOINT_URL, AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or a role, for the "
            f"processes of Ray on every node, so that they may write {storage}"
        )
    return Check("storage", "failed", found, remedy)


def _remove(folder: Path | str) -> None:
    if isinstance(folder, str):
        with suppress(OSError):
            Bucket(folder).clear()
        return
    shutil.rmtree(folder, ignore_errors=True)


def check_mlflow(uri: str | None) -> Check:
    """Whether MLflow answers at the study's address, to whom it is asked from here.

    Args:
        uri: ``tracking.uri`` of the study; None for a file in its own folder.
    """
    if uri is None:
        return Check("mlflow", "ok", "a SQLite file in the study's folder")
    if not uri.startswith(("http://", "https://")):
        return Check("mlflow", "ok", f"{masked(uri)} is a store that is used without a server")
    url = f"{uri.rstrip('/')}/api/2.0/mlflow/experiments/search?max_results=1"
    try:
        request = urllib.request.Request(url, headers=_mlflow_credentials())  # noqa: S310 - http(s)
        with urllib.request.urlopen(request, timeout=HTTP_TIMEOUT_S) as answer:  # noqa: S310
            json.loads(answer.read())
    except urllib.error.HTTPError as error:
        return Check(
            "mlflow", "failed", f"{masked(uri)} answers {error.code}", _http_remedy(error.code, uri)
        )
    except ValueError:
        remedy = "see that the address is MLflow's own, and that no proxy answers in its place"
        return Check("mlflow", "failed", f"{masked(uri)} answers, but not as MLflow does", remedy)
    except OSError as error:
        remedy = (
            "start the server (`mlflow server --host 0.0.0.0`), and see that the node that runs "
            "the study reaches it; until then the study would queue what it logs"
        )
        return Check("mlflow", "failed", masked(f"{uri} does not answer: {error}"), remedy)
    return Check("mlflow", "ok", f"{masked(uri)} answers")


def _http_remedy(code: int, uri: str) -> str:
    host = uri.split("://", 1)[1].split("/", 1)[0].rsplit("@", 1)[-1]
    if code == 403:
        return (
            f"MLflow refuses hosts that it does not know: start it with --allowed-hosts "
            f"'localhost:*,127.0.0.1:*,{host}' (this replaces its defaults)"
        )
    if code == 401:
        return (
            "set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or MLFLOW_TRACKING_TOKEN, "
            "in the environment of the node that runs the study"
        )
    return "see the server's log, and that the address is MLflow's own"


def _mlflow_credentials() -> dict[str, str]:
    """The header by which MLflow's own client would say who it is."""
    token = os.environ.get("MLFLOW_TRACKING_TOKEN")
    user = os.environ.get("MLFLOW_TRACKING_USERNAME")
    if token:
        return {"Authorization": f"Bearer {token}"}
    if user:
        pair = f"{user}:{os.environ.get('MLFLOW_TRACKING_PASSWORD', '')}"
        return {"Authorization": f"Basic {base64.b64encode(pair.encode()).decode()}"}
    return {}


# Nodes.


class _Nodes:
    """The nodes of the cluster that Ray has joined, asked by tasks pinned to each."""

    def __init__(self) -> None:
        import ray

        alive = [node for node in ray.nodes() if node["Alive"]]
        self.names = {
            node["NodeID"]: f"{node['NodeManagerHostname']} ({node['NodeManagerAddress']})"
            for node in alive
        }
        self.gpus = {node["NodeID"]: float(node["Resources"].get("GPU", 0)) for node in alive}
        self._resources: list[dict[str, float]] = [node["Resources"] for node in alive]

    def resources_for(self, config: StudyConfig) -> list[dict[str, float]]:
        """Ray's resources of the nodes that a study may use: on S3 of the one it is started on."""
        if not config.is_on_s3:
            return self._resources
        here = node_resource()
        return [node for node in self._resources if here in node]

    def ask(
        self,
        function: Callable[..., Any],
        *arguments: Any,
        nodes: list[str] | None = None,
        each: Callable[[str], Any] | None = None,
        timeout_s: float = NODE_TIMEOUT_S,
    ) -> tuple[dict[str, Any], dict[str, str]]:
        """Call a function on nodes at the same time.

        Args:
            function: What to call.
            arguments: Of it.
            nodes: Ids; by default all.
            each: One more argument by the node's id.
            timeout_s: For all of them together.

        Returns:
            Node id → answer, and node id → why there is none.
        """
        import ray
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        task = ray.remote(num_cpus=0, max_retries=0)(function)
        env = {"env_vars": {"RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0"}}
        calls = {}
        for node in nodes if nodes is not None else list(self.names):
            here = NodeAffinitySchedulingStrategy(node, soft=False)
            more = (each(node),) if each else ()
            options = task.options(scheduling_strategy=here, runtime_env=env)
            calls[node] = options.remote(*arguments, *more)
        deadline = time.monotonic() + timeout_s
        answers, silent = {}, {}
        for node, call in calls.items():
            try:
                answers[node] = ray.get(call, timeout=max(0.0, deadline - time.monotonic()))
            except ray.exceptions.GetTimeoutError:
                silent[node] = f"no answer within {timeout_s:g} s"
                ray.cancel(call, force=True)
            except Exception as error:  # noqa: BLE001 - whatever it is, it is the finding
                silent[node] = _last_line(error)
        return answers, silent


def _on(node: str, nodes: _Nodes, facts: Facts) -> Facts:
    return Facts(**{**asdict(facts), "node": nodes.names[node], "ray_gpus": nodes.gpus[node]})


def _renamed(facts: Facts, name: str) -> Facts:
    return Facts(**{**asdict(facts), "node": name})


def _last_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"
