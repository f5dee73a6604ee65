"""One process runs a study on S3, whichever machines ask."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest

from gam_ray.study import lease
from gam_ray.study.bucket import Bucket
from gam_ray.study.lease import CLAIMS, Lease, LeaseLostError


@pytest.fixture
def bucket(s3: str) -> Bucket:
    return Bucket(f"{s3}/digits")


def claim(bucket: Bucket, host: str, pid: int, *, held: bool = True) -> str:
    key = f"{CLAIMS}/another"
    bucket.write(key, json.dumps({"host": host, "pid": pid, "held": held}).encode())
    return key


def test_the_second_is_told_who_holds_it_until_it_is_given_back(bucket: Bucket) -> None:
    first, second = Lease(bucket), Lease(bucket)
    first.acquire()
    with pytest.raises(ValueError, match=f"running already: process {os.getpid()} on "):
        second.acquire()
    first.renew()
    first.release()
    second.acquire()
    assert len(bucket.keys(CLAIMS)) == 1


def test_of_many_at_the_same_moment_one_gets_it(bucket: Bucket) -> None:
    def acquires(each: Lease) -> bool:
        try:
            each.acquire()
        except ValueError:
            return False
        return True

    with ThreadPoolExecutor(6) as executor:
        won = list(executor.map(acquires, [Lease(bucket) for _ in range(6)]))
    assert won.count(True) == 1


def test_a_machine_that_went_silent_is_forgotten_in_time(
    bucket: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = claim(bucket, "gone", 1)
    with pytest.raises(ValueError, match="process 1 on gone"):
        Lease(bucket).acquire()
    monkeypatch.setattr(lease, "EXPIRY_S", -1.0)
    Lease(bucket).acquire()
    assert bucket.read(key) is None


def test_a_dead_process_of_this_machine_is_forgotten_at_once(bucket: Bucket) -> None:
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    claim(bucket, lease.socket.gethostname(), dead.pid)
    Lease(bucket).acquire()


def test_who_was_silent_for_too_long_learns_that_it_lost(
    bucket: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    slow, fast = Lease(bucket), Lease(bucket)
    slow.acquire()
    with monkeypatch.context() as patched:
        patched.setattr(lease, "EXPIRY_S", -1.0)
        fast.acquire()
    with pytest.raises(LeaseLostError):
        slow.renew()
    fast.renew()


def test_who_only_asks_takes_nothing_from_the_holder(bucket: Bucket) -> None:
    holder = Lease(bucket)
    holder.acquire()
    claim(bucket, "asks", 1, held=False)
    holder.renew()
    claim(bucket, "holds", 1)
    with pytest.raises(LeaseLostError, match="taken over by process 1 on holds"):
        holder.renew()
