"""What breaks while a study runs on a cluster of three nodes, and what it costs.

    python benchmarks/faults.py --json benchmarks/results/faults.json
    python benchmarks/faults.py --rows worker broker --json benchmarks/results/faults.json

Three `ray start` with addresses of their own on this machine make the cluster, anew for each row.
Each row runs the same study of 12 searched trials and two baselines (random search, one seed), does
its harm, resumes where the study ended, and compares with an undisturbed run: trials that are not
finished, trials or runs that are there twice, rows of metrics in MLflow that are missing or there
twice, and figures of trials that are not equal to the last bit. Rows that are not named keep their
figures in the file.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Self
from urllib.request import urlopen

import optuna
import yaml
from tables import commit, stamp

from gam_ray.config import StudyConfig
from gam_ray.study import results
from gam_ray.study.store import Role, StudyStore, TrialFiles
from gam_ray.tracking import read_status

TRIALS = 12
STUDY: dict[str, Any] = {
    "name": "faults",
    "trial": {
        "task": {"source": "rendered-digits", "target": "handwritten-digits"},
        "pretraining": {"steps": 200, "batch_size": 32},
        "steps": 240,
        "report_every": 60,
        "batch_size": 32,
    },
    "space": {
        "adaptation.weight": {"log": [1, 100]},
        "adaptation.layers": {"subset": ["fc3", "fc4"], "min": 1},
        "adaptation.adversary": {"choice": ["gan", "lsgan"]},
    },
    # Proposals and scores that do not depend on who ends first, so that runs can be compared.
    "search": {"trials": TRIALS, "sampler": "random", "seed": 5},
    "objective": {"score": "class_ami", "finalists": 1, "seeds": 1},
    "student": None,
}
DATABASE = "mlflow.db"
ADDRESSES = ("127.0.0.1", "127.0.0.2", "127.0.0.3")
PATIENCE_S = 600.0
# Figures that depend on which trials were there before, or on the clock.
NOT_COMPARED = ("score/ensv", "score/confident_ensv", "score/mean_rank", "seconds")


class Cluster:
    """Three nodes of a core each on this machine, guarded by a token."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._port = _free_port()
        self._nodes: dict[str, subprocess.Popen[bytes]] = {}
        self.token = os.urandom(16).hex() + os.urandom(16).hex()
        self.address = f"{ADDRESSES[0]}:{self._port}"

    def start(self) -> None:
        """Start what does not run, and wait until all nodes are there."""
        for number, address in enumerate(ADDRESSES):
            if address not in self._nodes:
                self._nodes[address] = self._start(number, address)
                time.sleep(8 if number == 0 else 1)
        time.sleep(8)

    def kill(self, address: str) -> None:
        """End a node and all it runs, without a word."""
        node = self._nodes.pop(address)
        for pid in [node.pid, *self.processes(f"--node-ip-address={address}")]:
            _kill(pid)
        node.wait()

    def close(self) -> None:
        """End all of it."""
        for pid in self.processes(""):
            _kill(pid)

    def processes(self, title: str) -> list[int]:
        """Ids of this cluster's processes whose command line has a text in it, newest last."""
        found = []
        for folder in Path("/proc").iterdir():
            try:
                if self.token.encode() in (folder / "environ").read_bytes() and (
                    title.encode() in (folder / "cmdline").read_bytes().replace(b"\0", b" ")
                ):
                    found.append((folder.stat().st_ctime, int(folder.name)))
            except OSError:  # not a process, or gone
                continue
        return [pid for _, pid in sorted(found) if pid != os.getpid()]

    def environment(self) -> dict[str, str]:
        """For processes that belong to the cluster or talk to it."""
        ours = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
        return ours | {
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            "PYTHONPATH": str(Path(__file__).parents[1]),
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN": self.token,
            "RAY_USAGE_STATS_ENABLED": "0",
            "OMP_NUM_THREADS": "1",
            "PYTHONFAULTHANDLER": "1",
        }

    def _start(self, number: int, address: str) -> subprocess.Popen[bytes]:
        where = (
            ["--head", f"--port={self._port}", "--include-dashboard=false"]
            if number == 0
            else [f"--address={self.address}"]
        )
        # Folders of their own: nodes that share one unpack over each other.
        temporary = Path(tempfile.mkdtemp(prefix="r", dir=self._folder))
        return subprocess.Popen(
            [sys.executable, "-m", "ray.scripts.scripts", "start", *where, "--block",
             f"--node-ip-address={address}", "--num-cpus=1", "--object-store-memory=100000000",
             f"--temp-dir={temporary}"],
            env=self.environment(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            start_new_session=True,
        )  # fmt: skip


class Running:
    """A study's process on a cluster."""

    def __init__(self, cluster: Cluster, folder: Path, **changes: Any) -> None:
        self._cluster = cluster
        self.folder = folder
        self.store = StudyStore(folder / "studies" / STUDY["name"])
        settings = {**STUDY, "storage": str(folder / "studies"), **changes}
        self.begun: set[str] = set()
        self.planned = StudyConfig.from_mapping(settings).planned_trials
        self._file = folder / "study.yaml"
        self._file.write_text(yaml.safe_dump(settings))
        self.process = self.run()

    def run(self) -> subprocess.Popen[bytes]:
        """Start it, or take it up again."""
        with (self.folder / "study.out").open("ab") as out:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "gam_ray.cli", "run", str(self._file), "--address",
                 self._cluster.address],
                env=self._cluster.environment(), stdout=out, stderr=out, start_new_session=True,
            )  # fmt: skip
        return self.process

    def note_what_has_begun(self) -> None:
        """Keep the keys of the trials so far: each has to be finished in the end."""
        self.begun |= {files.folder.name for files in self.store.trials()}

    def kill(self) -> None:
        """End the study's process without a word."""
        self.note_what_has_begun()
        _kill(self.process.pid)
        self.process.wait()

    def wait(self, what: Callable[[], bool], limit_s: float = PATIENCE_S) -> float:
        """Wait until something holds or the study ends; the seconds it took."""
        began = time.monotonic()
        while not what() and self.process.poll() is None:
            if time.monotonic() - began > limit_s:
                raise TimeoutError(f"not within {limit_s:g} s")
            time.sleep(0.2)
        return time.monotonic() - began

    def reports(self) -> int:
        """Reports on storage so far."""
        return sum(len(files.reports()) for files in self.store.trials())

    def until_in_the_middle(self, reports: int = 10) -> None:
        """Wait until some trials are over and others run."""
        self.wait(lambda: self.reports() >= reports)
        self.note_what_has_begun()

    def until_all_go_on(self, at: float | None = None) -> float:
        """Seconds until every trial that was under way has reported again, or is over."""
        began = at or time.monotonic()
        before = {f.folder: len(f.reports()) for f in self.store.trials() if f.state() == "running"}

        def go_on() -> bool:
            now = {f.folder: f for f in self.store.trials()}
            return all(now[k].end() or len(now[k].reports()) > n for k, n in before.items())

        self.wait(go_on)
        return time.monotonic() - began

    def end(self) -> int:
        """Wait for its end; the exit code."""
        self.wait(lambda: False)
        return self.process.wait()

    def until_all_is_sent(self) -> dict[str, Any]:
        """Wait for its end; where records still wait for MLflow, run it again, as it says."""
        code = self.end()
        waiting = read_status(self.store.tracking).waiting
        if waiting:
            self.run()
        return {"exit_code": code, "sent_by_a_second_run": waiting}


Harm = Callable[[Cluster, Running], dict[str, Any]]


def _kill_one(title: str) -> Harm:
    def harm(cluster: Cluster, study: Running) -> dict[str, Any]:
        study.until_in_the_middle()
        pids = cluster.processes(title)
        _kill(pids[-1])
        return {"recovered_s": study.until_all_go_on()}

    return harm


def node(cluster: Cluster, study: Running) -> dict[str, Any]:
    """The third node dies, and comes back 20 s later."""
    study.until_in_the_middle()
    cluster.kill(ADDRESSES[2])
    recovered = study.until_all_go_on()
    time.sleep(20)
    cluster.start()
    return {"recovered_s": recovered}


def head(cluster: Cluster, study: Running) -> dict[str, Any]:
    """All nodes and the study's process die; a new cluster, and `run` again."""
    study.until_in_the_middle()
    study.kill()
    for address in ADDRESSES:
        cluster.kill(address)
    began = time.monotonic()
    cluster.start()
    study.run()
    return {"recovered_s": study.until_all_go_on(began)}


def random_kills(_: Cluster, study: Running, *, times: int = 20) -> dict[str, Any]:
    """The study's process dies at random moments of its life, again and again."""
    draw = random.Random(0)  # noqa: S311 - moments, no secrets
    kills = 0
    for _kill_number in range(times):
        time.sleep(draw.uniform(15, 45))
        if study.process.poll() is not None:
            break
        study.kill()
        kills += 1
        study.run()
    return {"kills": kills}


def kill_in(*stages: tuple[Role, int]) -> Harm:
    """The study's process dies in each of these stages, and is taken up again each time.

    Args:
        stages: Role of the trials of a stage, and their last step.
    """

    def harm(_: Cluster, study: Running) -> dict[str, Any]:
        for role, last in stages:

            def runs(role: Role = role, last: int = last) -> bool:
                return any(
                    files.state() == "running"
                    and files.record().role == role
                    and files.record().config.last_step == last
                    for files in study.store.trials()
                )

            study.wait(runs)
            time.sleep(1.0)
            study.kill()
            study.run()
        return {"kills": len(stages)}

    return harm


def stop(_: Cluster, study: Running) -> dict[str, Any]:
    """Stopped in order while trials start, run and report, three times."""
    seconds = []
    for reports in (0, 4, 12):
        study.until_in_the_middle(reports)
        study.wait(lambda: study.store.read("state") is not None)
        study.store.request_stop()
        seconds.append(study.wait(lambda: False, 120))
        state = (study.store.read("state") or {})["state"]
        if (state, study.process.wait()) != ("stopped", 3):
            raise RuntimeError(f"asked to stop, the study is {state}")
        study.run()
    return {"stopped_within_s": max(seconds)}


def twice(_: Cluster, study: Running) -> dict[str, Any]:
    """A second process takes up the study while the first runs it."""
    study.until_in_the_middle(1)
    first = study.process
    second = study.run()
    code = second.wait()
    study.process = first
    told = (study.store.folder.parents[1] / "study.out").read_text()
    return {
        "second_exit_code": code,
        "told_who": f"as process {first.pid}" in told.replace("\n", " "),
    }


def full_disk(_: Cluster, study: Running) -> dict[str, Any]:
    """The storage is full for a while: the study ends with an error, and resumes."""
    study.until_in_the_middle()
    filler = _fill(study.store.folder.parent)
    seconds = study.wait(lambda: False, 300)
    code = study.process.wait()
    filler.unlink()
    study.run()
    return {"ended_within_s": seconds, "exit_code": code}


def read_only(_: Cluster, study: Running) -> dict[str, Any]:
    """The storage's file system has an error and is read-only from then on, until it is mended."""
    study.until_in_the_middle()
    folder = study.store.folder.parent
    _run("mount", "-o", "remount,abort", folder)
    seconds = study.wait(lambda: False, 300)
    code = study.process.wait()
    deadline = time.monotonic() + PATIENCE_S
    while subprocess.run([_program("umount"), folder], check=False).returncode:
        if time.monotonic() > deadline:
            raise TimeoutError(f"{folder} is in use")
        time.sleep(1)
    # A copy: what is mounted once more from one file may be the file system that has the error.
    mended = shutil.copy(folder.with_suffix(".img"), folder.with_suffix(".mended.img"))
    subprocess.run([_program("e2fsck"), "-fy", mended], check=False)  # 1: it mended something
    _run("mount", "-o", "loop", mended, folder)
    study.run()
    return {"ended_within_s": seconds, "exit_code": code}


def mlflow_late(_: Cluster, study: Running) -> dict[str, Any]:
    """MLflow is not there at the start."""
    study.until_in_the_middle(4)
    with _MLflow(study.folder) as server:
        server.start()
        return study.until_all_is_sent()


def mlflow_killed(_: Cluster, study: Running) -> dict[str, Any]:
    """MLflow is killed for 60 s."""

    def harm(server: _MLflow) -> None:
        server.kill()
        time.sleep(60)
        server.start()

    return _harm_mlflow(study, harm)


def mlflow_500(_: Cluster, study: Running) -> dict[str, Any]:
    """At MLflow's address something answers 500, until most reports are there."""
    refusing = ThreadingHTTPServer(("127.0.0.1", _MLflow.port), _Answers500)
    threading.Thread(target=refusing.serve_forever, daemon=True).start()
    study.until_in_the_middle(30)
    refusing.shutdown()
    refusing.server_close()
    with _MLflow(study.folder) as server:
        server.start()
        return study.until_all_is_sent()


def mlflow_full(_: Cluster, study: Running) -> dict[str, Any]:
    """The disk of MLflow's server is full for a while."""

    def harm(server: _MLflow) -> None:
        filler = _fill(server.folder)
        study.until_in_the_middle(40)
        filler.unlink()

    return _harm_mlflow(study, harm)


def _harm_mlflow(study: Running, harm: Callable[[_MLflow], None]) -> dict[str, Any]:
    """Do harm to a server that has runs of the study, and wait until it has all."""
    with _MLflow(study.folder) as server:
        server.start()
        study.until_in_the_middle(4)
        study.wait(lambda: server.runs() > 0)
        harm(server)
        return study.until_all_is_sent()


def damaged(_: Cluster, study: Running) -> dict[str, Any]:
    """The study's process dies, and the newest checkpoints of trials under way are damaged."""
    study.until_in_the_middle()
    study.kill()
    files = [trial.folder / "checkpoint.pt" for trial in study.store.trials() if not trial.end()]
    found = [file for file in files if file.exists()]
    for file in found:
        file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    began = time.monotonic()
    study.run()
    return {"damaged": len(found), "recovered_s": study.until_all_go_on(began)}


def diverged(_: Cluster, study: Running) -> dict[str, Any]:
    """Some trials have a learning rate with which they diverge."""
    study.end()
    ends = {files.folder.name: files.end() for files in study.store.trials()}
    return {"failed": [end.error for end in ends.values() if end and end.state == "failed"]}


class _Answers500(BaseHTTPRequestHandler):
    """Whatever it is asked."""

    def _refuse(self) -> None:
        self.send_error(500)

    do_GET = do_POST = do_PUT = do_PATCH = _refuse  # noqa: N815 - names of the standard library

    def log_message(self, *_: Any) -> None:
        """Nothing."""


class _MLflow:
    """A tracking server on a SQLite file, at a port of its own."""

    port = 0

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "server"
        self.folder.mkdir(exist_ok=True)
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()

    def start(self) -> None:
        """Start it and wait until it answers: on a busy machine it takes half a minute."""
        log = self.folder.with_name("server.log")
        with log.open("ab") as out:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "mlflow", "server", "--backend-store-uri",
                 f"sqlite:///{self.folder / DATABASE}", "--artifacts-destination",
                 str(self.folder / "files"), "--workers", "1", "--host", "127.0.0.1", "--port",
                 str(self.port)],
                stdout=out, stderr=out, start_new_session=True,
                env={**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"},
            )  # fmt: skip
        deadline = time.monotonic() + PATIENCE_S
        while time.monotonic() < deadline:
            with suppress(OSError), urlopen(f"http://127.0.0.1:{self.port}/health"):
                return
            if self._process.poll() is not None:
                break
            time.sleep(0.5)
        raise RuntimeError(f"MLflow did not start: see {log}")

    def runs(self) -> int:
        """Runs that it has."""
        with sqlite3.connect(self.folder / DATABASE) as connection:
            return int(connection.execute("select count(*) from runs").fetchone()[0])

    def kill(self) -> None:
        """End it without a word, if it runs."""
        if self._process is not None:
            with suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()


def _fill(folder: Path) -> Path:
    """The file that fills up the file system of a folder."""
    filler = folder / "filler"
    for size in (2**20, 1):
        with filler.open("ab", buffering=0) as file, suppress(OSError):
            while True:
                file.write(bytes(size))
    return filler


def nothing(_cluster: Cluster, _study: Running) -> dict[str, Any]:
    """The undisturbed run."""
    return {}


ROWS: dict[str, tuple[str, Harm]] = {
    "none": ("nothing", nothing),
    "worker": ("a worker killed -9 in the middle of a step", _kill_one("ray::RayTrainWorker")),
    "relay": ("a relay killed -9", _kill_one("ray::Relay")),
    "broker": ("the broker killed -9", _kill_one("ray::Broker")),
    "node": ("a node killed, back after 20 s", node),
    "head": ("all nodes and the study's process killed -9, then resumed", head),
    "stop": ("stopped in order three times, resumed each time", stop),
    "twice": ("a second process runs the same study", twice),
    "disk": ("storage full for a while", full_disk),
    "read_only": ("storage read-only for a while", read_only),
    "mlflow_late": ("MLflow away at the start", mlflow_late),
    "mlflow": ("MLflow killed for 60 s", mlflow_killed),
    "mlflow_500": ("MLflow answers 500", mlflow_500),
    "mlflow_full": ("MLflow's disk full for a while", mlflow_full),
    "damaged": ("the study's process killed -9, newest checkpoints damaged", damaged),
    "diverged": ("trials whose loss becomes NaN", diverged),
    "stages": (
        "the study's process killed -9 while a finalist runs again, and while the student learns",
        kill_in(("again", 240), ("student", 200)),
    ),
    "generations": (
        "the same in the second and in the third generation of population-based training",
        kill_in(("generation", 480), ("generation", 720)),
    ),
    "kills": ("the study's process killed -9 at 20 random moments", random_kills),
}
# What a row's study has otherwise.
CHANGES: dict[str, dict[str, Any]] = {
    "diverged": {
        "space": {**STUDY["space"], "optimizer.target_lr": {"choice": [2e-4, 1e30]}},
        "search": {**STUDY["search"], "enqueue": [{"optimizer.target_lr": 1e30}]},
    },
    "stages": {
        "objective": {**STUDY["objective"], "finalists": 2, "seeds": 2},
        "student": {"teachers": 3, "steps": 200},
    },
    "generations": {
        "search": {**STUDY["search"], "trials": 6},
        "schedule": {"kind": "pbt", "generations": 3},
    },
}


def main(options: argparse.Namespace) -> None:
    """Run the rows that are asked for, compare, write."""
    file: Path = options.json
    known = json.loads(file.read_text())["rows"] if file.exists() else {}
    options.folder.mkdir(parents=True, exist_ok=True)
    for name in options.rows:
        print(f"{name}: {ROWS[name][0]}", flush=True)
        known[name] = row(name, options.folder)
        print(f"  {known[name]}", flush=True)
        ordered = {each: known[each] for each in ROWS if each in known}
        file.write_text(json.dumps({**stamp(), "rows": ordered}, indent=1) + "\n")
    print(markdown({each: known[each] for each in ROWS if each in known}))


def row(name: str, folder: Path) -> dict[str, Any]:
    """The figures of one row."""
    title, harm = ROWS[name]
    here = folder / name
    shutil.rmtree(here, ignore_errors=True)
    here.mkdir(parents=True)
    changes = CHANGES.get(name, {})
    if name.startswith("mlflow"):
        _MLflow.port = _quiet_port()
        changes = {"tracking": {"uri": f"http://127.0.0.1:{_MLflow.port}"}}
    small = {"disk": "studies", "read_only": "studies", "mlflow_full": "server"}.get(name)
    place = here / small if small else None
    with _cluster() as cluster, _mounted(place, on_disk=name == "read_only"):
        began = time.monotonic()
        study = Running(cluster, here, **changes)
        told = harm(cluster, study)
        code = study.end()
        while code == 3:  # stopped once more than it was asked to be resumed
            study.run()
            code = study.end()
        told |= {"seconds": time.monotonic() - began, "exit_code_at_the_end": code}
        found = {
            "fault": title,
            "commit": commit(),
            **told,
            **compare(study, folder / "none", name),
        }
        if name != "none":
            shutil.rmtree(here / "studies", ignore_errors=True)
    return found


def compare(study: Running, undisturbed: Path, name: str) -> dict[str, Any]:
    """What is lost, doubled or different.

    A search that is resumed draws anew, so its later trials may be others than those of the
    undisturbed run. What had begun when harm was done has to be finished, and the trials have to be
    as many; those that both runs have are compared.
    """
    store = study.store
    wanted = StudyStore(undisturbed / "studies" / STUDY["name"])
    expected = {files.folder.name: files for files in wanted.trials()}
    found = {files.folder.name: files for files in store.trials()}
    finished = {key for key, files in found.items() if _ended(files) == "finished"}
    over = {key for key, files in found.items() if name == "diverged" and _ended(files) == "failed"}
    common = finished & expected.keys()
    different = [key for key in common if _figures(found[key]) != _figures(expected[key])]
    database = store.folder / DATABASE
    if name.startswith("mlflow"):
        database = study.folder / "server" / DATABASE
    return {
        "state": results.status(store)["state"],
        "trials_lost": max(
            len(study.begun - finished - over), study.planned - len(finished | over)
        ),
        "trials_doubled": max(0, len(found) - study.planned) + _doubled_runs(database),
        **_rows(store, database),
        "trials_compared": len(common),
        "trials_different": len(different),
        "optuna_disagrees": _optuna_disagrees(store),
    }


def _ended(files: TrialFiles) -> str | None:
    end = files.end()
    return end.state if end else None


def _figures(files: TrialFiles) -> list[dict[str, float]]:
    return [
        {
            name: value
            for name, value in report.metrics.items()
            if name not in NOT_COMPARED and not name.startswith("system/")
        }
        for report in files.reports()
    ]


def _doubled_runs(database: Path) -> int:
    query = (
        "select count(*) from (select t.value from tags t join runs r using (run_uuid) where "
        "t.key = 'gam_ray.trial' and r.lifecycle_stage = 'active' group by t.value "
        "having count(*) > 1)"
    )
    with sqlite3.connect(database) as connection:
        return int(connection.execute(query).fetchone()[0])


def _rows(store: StudyStore, database: Path) -> dict[str, int]:
    """Rows of MLflow against the reports on storage: missing, and there more than once."""
    with sqlite3.connect(database) as connection:
        runs = dict(
            connection.execute(
                "select t.value, t.run_uuid from tags t join runs r using (run_uuid) where "
                "t.key = 'gam_ray.trial' and r.lifecycle_stage = 'active'"
            ).fetchall()
        )
        rows = connection.execute("select run_uuid, key, step, count(*) from metrics "
                                  "group by run_uuid, key, step").fetchall()  # fmt: skip
    there = {(run, key, step): count for run, key, step, count in rows}
    lost = 0
    for files in store.trials():
        run = runs.get(files.folder.name)
        for report in files.reports():
            lost += sum((run, key, report.step) not in there for key in report.metrics)
    return {"rows_lost": lost, "rows_doubled": sum(count > 1 for count in there.values())}


def _optuna_disagrees(store: StudyStore) -> int:
    """Finished trials of the search that are not in Optuna once, complete; others that are."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    study = optuna.load_study(
        study_name=STUDY["name"], storage=f"sqlite:///{store.folder / 'optuna.db'}"
    )
    complete = [
        trial.user_attrs.get("gam_ray.key")
        for trial in study.trials
        if trial.state == optuna.trial.TrialState.COMPLETE
    ]
    searched = [
        files.folder.name
        for files in store.trials()
        if files.record().role == "search" and _ended(files) == "finished"
    ]
    return len(set(complete) ^ set(searched)) + len(complete) - len(set(complete))


def markdown(rows: dict[str, dict[str, Any]]) -> str:
    """The table of docs/reliability.md."""
    lines = [
        "| fault | trials lost / doubled / different | rows lost / doubled | Optuna disagrees | |",
        "|---|---|---|---|---|",
    ]
    for found in rows.values():
        shown = {k: v for k, v in found.items() if k.endswith("_s") or k in ("kills", "exit_code")}
        told = ", ".join(f"{k} {v:.0f}" for k, v in shown.items())
        lines.append(
            f"| {found['fault']} | {found['trials_lost']} / {found['trials_doubled']} / "
            f"{found['trials_different']} of {found.get('trials_compared', 14)} | "
            f"{found['rows_lost']} / {found['rows_doubled']} | "
            f"{found['optuna_disagrees']} | {told} |"
        )
    return "\n".join(lines)


@contextmanager
def _cluster() -> Iterator[Cluster]:
    folder = Path(tempfile.mkdtemp(prefix="f"))  # short: names of sockets have 107 letters
    cluster = Cluster(folder)
    try:
        cluster.start()
        yield cluster
    finally:
        cluster.close()
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def _mounted(folder: Path | None, *, on_disk: bool) -> Iterator[None]:
    """A small file system of its own at this folder; to mount takes root.

    Args:
        folder: Where; None for none.
        on_disk: Whether it is ext4 in a file beside it, or else in memory.
    """
    if folder is None:
        yield
        return
    folder.mkdir()
    if on_disk:
        image = folder.with_suffix(".img")
        with image.open("wb") as file:
            file.truncate(800 * 2**20)
        _run("mkfs.ext4", "-q", image)
        _run("mount", "-o", "loop", image, folder)
    else:
        _run("mount", "-t", "tmpfs", "-o", "size=800m", "tmpfs", folder)
    try:
        yield
    finally:
        subprocess.run([_program("umount"), "-l", folder], check=False)


def _run(program: str, *words: str | Path) -> None:
    subprocess.run([_program(program), *words], check=True)


def _program(name: str) -> str:
    return shutil.which(name, path=f"{os.environ['PATH']}:/usr/sbin:/sbin") or name


def _free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def _quiet_port() -> int:
    """One that is free, and that no system gives to whoever asks for any."""
    for port in range(21000, 30000):
        with socket.socket() as found, suppress(OSError):
            found.bind(("127.0.0.1", port))
            return port
    raise OSError("no port is free")


def _kill(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return


if __name__ == "__main__":
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--rows", nargs="+", choices=ROWS, default=list(ROWS))
    arguments.add_argument("--json", type=Path, default=Path("benchmarks/results/faults.json"))
    arguments.add_argument("--folder", type=Path, default=Path("benchmarks/runs/faults").absolute())
    main(arguments.parse_args())
