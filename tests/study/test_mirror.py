"""A study's folder and its place in a bucket, through crashes on both sides."""

from __future__ import annotations

import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from s3_server import SECRET

from gam_ray.config.storages import working_folder
from gam_ray.study import lease, mirror
from gam_ray.study.bucket import Bucket
from gam_ray.study.errors import StudyError
from gam_ray.study.mirror import FILES, MANIFEST, Manifest, Mirror
from gam_ray.study.remote import RemoteStore
from gam_ray.study.snapshot import take

Files = dict[str, bytes]
SOME = {
    "study.json": b"{}",
    "state.json": b'{"state": "running"}',
    "tracking/events.jsonl": b"{}\n",
    "trials/k/trial.json": b"{}",
    "trials/k/reports.jsonl": b"1\n2\n",
    "trials/k/checkpoint.pt": b"step 2",
    "trials/k/predictions.npy": b"of 2",
    "sources/mnist.pt": b"network",
    "artifacts/1/adapted.pt": b"kept",
}
LEFT = {"ray/tune/x.json": b"", ".lock": b"", "state.json.tmp": b"", "sources/mnist.pt.lock": b""}


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mirror, "PUSH_EVERY_S", 0.05)
    monkeypatch.setattr(mirror, "LOOK_EVERY_S", 0.05)
    monkeypatch.setattr(mirror, "LAST_PAUSE_S", 0.0)
    monkeypatch.setattr("gam_ray.study.remote.LOOK_EVERY_S", 0.0)


@pytest.fixture
def address(s3: str) -> str:
    return f"{s3}/digits"


@pytest.fixture
def folder(address: str) -> Path:
    return working_folder(address)


def write(folder: Path, files: Files) -> None:
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        draft = folder / f"{name}.tmp"
        draft.write_bytes(content)
        draft.replace(folder / name)


def read(folder: Path) -> Files:
    return {
        name: file.read_bytes()
        for file in folder.rglob("*")
        if file.is_file() and not (name := str(file.relative_to(folder))).startswith(".")
    }


def wait_for(done: Callable[[], object]) -> None:
    deadline = time.monotonic() + 30
    while not done():
        assert time.monotonic() < deadline, "it did not come to that"
        time.sleep(0.02)


def test_what_was_written_is_there_on_another_machine(address: str, folder: Path) -> None:
    with Mirror(address, folder).held():
        write(folder, {**SOME, **LEFT})
    times = {name: (folder / name).stat().st_mtime_ns for name in SOME}
    shutil.rmtree(folder)
    with Mirror(address, folder).held():
        assert read(folder) == SOME
        assert {name: (folder / name).stat().st_mtime_ns for name in SOME} == times


def test_what_did_not_change_is_not_sent_again_and_what_is_old_goes(
    address: str, folder: Path
) -> None:
    with Mirror(address, folder).held():
        write(folder, SOME)
    before = Bucket(address).keys(FILES)
    shutil.rmtree(folder)
    with Mirror(address, folder).held():
        (folder / "trials/k/checkpoint.pt").replace(folder / "trials/k/checkpoint.pt.before")
        write(folder, {"trials/k/checkpoint.pt": b"step 3"})
        (folder / "artifacts/1/adapted.pt").unlink()
    after = Bucket(address).keys(FILES)
    # The checkpoint before the newest is the object that it was.
    assert [key.rpartition(".")[0] for key in after.keys() - before.keys()] == [
        f"{FILES}/trials/k/checkpoint.pt"
    ]
    assert [key.rpartition(".")[0] for key in before.keys() - after.keys()] == [
        f"{FILES}/artifacts/1/adapted.pt"
    ]
    shutil.rmtree(folder)
    with Mirror(address, folder).held():
        assert (folder / "trials/k/checkpoint.pt.before").read_bytes() == b"step 2"


@pytest.mark.parametrize("uploads", [0, 1, 4])
def test_a_push_that_is_cut_off_leaves_the_state_before(
    address: str, folder: Path, monkeypatch: pytest.MonkeyPatch, uploads: int
) -> None:
    with Mirror(address, folder).held():
        write(folder, SOME)
    done, upload = [], Bucket.upload

    def cut_off(bucket: Bucket, file: Path, key: str) -> None:
        if len(done) >= uploads:
            bucket.write(key, file.read_bytes()[:1])
            raise OSError("connection lost")
        done.append(key)
        upload(bucket, file, key)

    with monkeypatch.context() as patched:
        patched.setattr(Bucket, "upload", cut_off)
        with (
            pytest.raises(StudyError, match=r"connection lost; it is whole in .*resume"),
            Mirror(address, folder).held(),
        ):
            write(folder, {name: content + b" and on" for name, content in SOME.items()})
    newest = read(folder)
    elsewhere = folder.with_name("elsewhere")
    folder.replace(elsewhere)
    with Mirror(address, folder).held():
        assert read(folder) == SOME
        # What the interrupted push left is gone.
        assert len(Bucket(address).keys(FILES)) == len(SOME)
    assert read(elsewhere) == newest


CRASH = """
import os, signal, sys
from pathlib import Path
from gam_ray.study import mirror
mirror.PUSH_EVERY_S = 0.05
folder = Path(sys.argv[2])
with mirror.Mirror(sys.argv[1], folder).held():
    (folder / "state.json").write_text("pushed")
    print("ready", flush=True)
    sys.stdin.readline()
    mirror.Mirror._push = lambda self: None
    (folder / "state.json").write_text("newer")
    os.kill(os.getpid(), signal.SIGKILL)
"""


def crash(address: str, folder: Path) -> None:
    """A process that is killed after it wrote and before that was brought to the bucket."""
    process = subprocess.Popen(
        [sys.executable, "-c", CRASH, address, str(folder)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdin is not None
    assert process.stdout.readline() == "ready\n"
    store = RemoteStore(address)
    wait_for(
        lambda: store.read("result") is None and read(store.folder) == {"state.json": b"pushed"}
    )
    with pytest.raises(ValueError, match=f"running already: process {process.pid} on"):
        Mirror(address, folder).held().__enter__()
    process.stdin.write("\n")
    process.stdin.flush()
    assert process.wait() == -signal.SIGKILL


def test_after_a_crash_the_same_machine_goes_on_with_what_it_wrote_last(
    address: str, folder: Path
) -> None:
    crash(address, folder)
    with Mirror(address, folder).held():
        assert (folder / "state.json").read_text() == "newer"
    shutil.rmtree(folder)
    with Mirror(address, folder).held():
        assert (folder / "state.json").read_text() == "newer"


def test_after_a_crash_another_machine_goes_on_and_the_first_one_takes_over_from_it(
    address: str, folder: Path
) -> None:
    crash(address, folder)
    first = folder.with_name("first")
    folder.replace(first)
    with Mirror(address, folder).held():
        assert (folder / "state.json").read_text() == "pushed"
        write(folder, {"state.json": b"of the second"})
    shutil.rmtree(folder)
    first.replace(folder)
    with Mirror(address, folder).held():
        assert read(folder) == {"state.json": b"of the second"}


def test_a_snapshot_has_no_report_without_its_checkpoint_nor_leaves_one_out(
    tmp_path: Path,
) -> None:
    folder, done = tmp_path / "study", threading.Event()
    trial, queue = folder / "trials" / "k", folder / "tracking" / "events.jsonl"
    write(folder, {"trials/k/trial.json": b"{}", "tracking/events.jsonl": b""})

    def run() -> None:
        step = 0
        while not done.is_set():
            step += 1
            if (trial / "checkpoint.pt").exists():
                (trial / "checkpoint.pt").replace(trial / "checkpoint.pt.before")
            write(folder, {"trials/k/checkpoint.pt": str(step).encode()})
            with (trial / "reports.jsonl").open("a") as file:
                file.write(f"{step}\n")
            with queue.open("a") as file:
                file.write(f"{step}\n")
            time.sleep(0.002)

    writer = threading.Thread(target=run)
    writer.start()
    try:
        wait_for(queue.read_text)
        for number in range(60):
            try:
                taken = take(folder, tmp_path / str(number))
            except OSError:  # this trial is faster than any real one
                continue
            files = read(tmp_path / str(number))
            assert set(taken) == set(files)
            reports = [int(line) for line in files.get("trials/k/reports.jsonl", b"").split()]
            told = [int(line) for line in files["tracking/events.jsonl"].split()]
            newest = files.get("trials/k/checkpoint.pt") or files["trials/k/checkpoint.pt.before"]
            assert int(newest) - len(reports) in (0, 1)
            assert len(told) <= len(reports)
    finally:
        done.set()
        writer.join()


def test_a_database_is_taken_between_two_transactions(tmp_path: Path) -> None:
    folder, done = tmp_path / "study", threading.Event()
    folder.mkdir()
    file = folder / "optuna.db"
    with sqlite3.connect(file) as database:
        database.execute("create table t (x)")

    def run() -> None:
        with sqlite3.connect(file, timeout=30) as own:
            while not done.is_set():
                with own:
                    own.executemany("insert into t values (?)", [(1,)] * 7)
                time.sleep(0.002)

    writer = threading.Thread(target=run)
    writer.start()
    try:
        for number in range(10):
            time.sleep(0.01)
            to = tmp_path / str(number)
            take(folder, to)
            with sqlite3.connect(to / "optuna.db") as copy:
                (rows,) = copy.execute("select count(*) from t").fetchone()
                assert copy.execute("pragma integrity_check").fetchone() == ("ok",)
            assert rows % 7 == 0
            assert [each.name for each in to.iterdir()] == ["optuna.db"]
    finally:
        done.set()
        writer.join()


def test_a_folder_elsewhere_is_refused_since_mlflow_names_the_first(
    address: str, folder: Path, tmp_path: Path
) -> None:
    with Mirror(address, folder).held():
        write(folder, SOME)
    with (
        pytest.raises(ValueError, match=f"that was {folder}, and here .*set GAM_RAY_CACHE"),
        Mirror(address, tmp_path / "other").held(),
    ):
        pass
    with Mirror(address, folder).held():  # the refused one holds nothing
        assert read(folder) == SOME


def test_a_study_that_was_deleted_in_the_bucket_is_not_brought_back_by_its_copy(
    address: str, folder: Path
) -> None:
    with Mirror(address, folder).held():
        write(folder, SOME)
    bucket = Bucket(address)
    for key in bucket.keys(""):
        bucket.delete(key)
    with pytest.raises(ValueError, match="delete that folder to begin anew"):
        Mirror(address, folder).held().__enter__()
    assert read(folder) == SOME
    shutil.rmtree(folder)
    with Mirror(address, folder).held():
        assert read(folder) == {}


@pytest.mark.parametrize("content", [b"", b"[]", b'{"copy": "x"}', b"\xff", b'{"files": {"a": 1}}'])
def test_a_manifest_that_is_damaged_ends_nothing_but_this(
    address: str, folder: Path, content: bytes
) -> None:
    with Mirror(address, folder).held():
        write(folder, SOME)
    Bucket(address).write(MANIFEST, content)
    with pytest.raises(ValueError, match=r"manifest.json must be as gam_ray wrote it"):
        Mirror(address, folder).held().__enter__()
    assert read(folder) == SOME


def test_a_manifest_does_not_reach_outside_the_folder(address: str, folder: Path) -> None:
    with Mirror(address, folder).held():
        write(folder, SOME)
    bucket = Bucket(address)
    manifest = json.loads(bucket.read(MANIFEST))
    manifest["files"]["../../evil"] = manifest["files"]["study.json"]
    bucket.write(MANIFEST, json.dumps(manifest).encode())
    shutil.rmtree(folder)
    with pytest.raises(ValueError, match=r"names a file outside: ../../evil"):
        Mirror(address, folder).held().__enter__()


def test_an_object_that_somebody_cut_is_named(address: str, folder: Path) -> None:
    with Mirror(address, folder).held():
        write(folder, SOME)
    bucket = Bucket(address)
    entry = Manifest.read(bucket).files["sources/mnist.pt"]
    bucket.write(entry.object, b"net")
    shutil.rmtree(folder)
    with pytest.raises(OSError, match=r"sources/mnist.pt\.\w+ must have 7 bytes, but has 3"):
        Mirror(address, folder).held().__enter__()
    assert not folder.exists()


def test_a_stop_from_another_machine_is_passed_on_once(address: str, folder: Path) -> None:
    RemoteStore(address).request_stop()  # meant for an earlier life
    with Mirror(address, folder).held():
        time.sleep(0.2)
        assert not (folder / "stop.json").exists()
        RemoteStore(address).request_stop()
        wait_for((folder / "stop.json").exists)
        assert json.loads((folder / "stop.json").read_text())["pid"] == os.getpid()
    assert set(Bucket(address).keys("")) == {MANIFEST}


def test_a_bucket_that_is_away_for_too_long_stops_the_study(
    address: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def away(*_: object) -> None:
        raise OSError("no answer")

    with Mirror(address, folder).held(), monkeypatch.context() as patched:
        patched.setattr(Bucket, "upload", away)
        write(folder, SOME)
        time.sleep(0.3)
        assert not (folder / "stop.json").exists()
        patched.setattr(mirror, "PATIENCE_S", 0.0)
        wait_for((folder / "stop.json").exists)
        reason = json.loads((folder / "stop.json").read_text())["reason"]
        assert "has not answered for" in reason
        assert "no answer" in reason
    shutil.rmtree(folder)
    with Mirror(address, folder).held():
        assert read(folder) == SOME


def test_who_lost_the_study_writes_nothing_more(
    address: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mirror, "RENEW_EVERY_S", 0.05)
    bucket = Bucket(address)
    with pytest.raises(StudyError, match="taken over by process 1 on another"):  # noqa: SIM117, PT012
        with Mirror(address, folder).held():
            write(folder, SOME)
            wait_for(lambda: len(bucket.keys(FILES)) == len(SOME))
            claim = {"host": "another", "pid": 1, "held": True}
            bucket.write(f"{lease.CLAIMS}/other", json.dumps(claim).encode())
            wait_for((folder / "stop.json").exists)
            before = bucket.read(MANIFEST)
            write(folder, {"state.json": b"of who lost"})
    assert bucket.read(MANIFEST) == before


def test_an_error_of_the_study_counts_and_its_end_is_in_the_bucket(
    address: str, folder: Path
) -> None:
    with pytest.raises(KeyError), Mirror(address, folder).held():  # noqa: PT012
        write(folder, SOME)
        raise KeyError
    assert set(Manifest.read(Bucket(address)).files) == set(SOME)
    assert not Bucket(address).keys(lease.CLAIMS)


# As commands see it


def test_a_command_sees_small_files_as_they_are_now_and_fetches_networks_when_asked(
    address: str, folder: Path
) -> None:
    store = RemoteStore(address)
    assert store.read("study") is None
    with Mirror(address, folder).held():
        write(folder, SOME)
    network = store.folder / "sources" / "mnist.pt"
    assert store.read("state") == {"state": "running"}
    small = {name: content for name, content in SOME.items() if not name.endswith(".pt")}
    assert read(store.folder) == small
    store.fetch(network)
    assert network.read_bytes() == b"network"
    with pytest.raises(FileNotFoundError, match=r"holds no sources/no.pt"):
        store.fetch(network.with_name("no.pt"))
    with Mirror(address, folder).held():
        write(folder, {"state.json": b'{"state": "finished"}'})
        (folder / "trials/k/predictions.npy").unlink()
    assert store.read("state") == {"state": "finished"}
    assert "trials/k/predictions.npy" not in read(store.folder)
    assert network.exists()


def test_a_snapshot_that_is_replaced_while_it_is_read_is_read_again(
    address: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Mirror(address, folder).held():
        write(folder, SOME)
    download, replaced = Bucket.download, []

    def after_a_push(bucket: Bucket, key: str, file: Path) -> None:
        if not replaced:
            replaced.append(key)
            with Mirror(address, folder).held():
                write(folder, dict.fromkeys(SOME, b'{"new": 1}'))
        download(bucket, key, file)

    monkeypatch.setattr(mirror, "CONNECTIONS", 1)
    monkeypatch.setattr(Bucket, "download", after_a_push)
    store = RemoteStore(address)
    assert store.read("state") == {"new": 1}
    assert set(read(store.folder).values()) == {b'{"new": 1}'}


# The bucket


def test_a_bucket_that_is_missing_is_named_with_what_to_do(folder: Path) -> None:
    with pytest.raises(ValueError, match="no 'nowhere'; make it, or set AWS_ENDPOINT_URL"):
        Mirror("s3://nowhere/studies/digits", folder).held().__enter__()
    assert not folder.exists()


def test_a_server_that_is_away_is_named_with_what_to_do(
    address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    with pytest.raises(ValueError, match="see that AWS_ENDPOINT_URL names the server"):
        Bucket(address).check()


def test_keys_that_are_wrong_are_told_without_the_secret(
    address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from moto import settings
    from moto.core.responses import ActionAuthenticatorMixin

    monkeypatch.setattr(settings, "INITIAL_NO_AUTH_ACTION_COUNT", 0)
    monkeypatch.setattr(ActionAuthenticatorMixin, "request_count", 1)
    with pytest.raises(ValueError, match="AWS_ACCESS_KEY_ID") as caught:
        Bucket(address).check()
    assert SECRET not in str(caught.value)
