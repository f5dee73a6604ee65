"""Who runs a study whose storage is S3: one process, on whatever machine.

Each process that wants the study writes a claim of its own and then looks at all: whoever sees
another's live claim takes its own back. Of two that write at the same time the later one sees the
other, since S3's listings show what was written before. So no conditional write is needed, which
pyarrow does not have and not every S3 server offers; and ages are differences between two times of
the server's clock, so that clocks of machines do not matter.
"""

from __future__ import annotations

import json
import os
import random
import secrets
import socket
import time
from dataclasses import dataclass
from typing import Any

from gam_ray.study.bucket import Bucket
from gam_ray.study.errors import StudyError

CLAIMS = ".lease"
# A claim that was not renewed for so long is forgotten, and renewals are so far apart.
EXPIRY_S, RENEW_EVERY_S = 180.0, 10.0
# Of processes that claim at the same moment all may step back: they try again.
ATTEMPTS, LONGEST_PAUSE_S = 5, 2.0


class LeaseLostError(StudyError):
    """Another process may run the study now."""


@dataclass(frozen=True)
class _Claim:
    key: str
    age_s: float
    host: str
    pid: int
    is_held: bool

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host}, heard {max(0.0, self.age_s):.0f} s ago"

    @property
    def is_live(self) -> bool:
        """Whether its process may be there; on this machine that is known at once."""
        if self.host == socket.gethostname() and not is_alive(self.pid):
            return False
        return self.age_s < EXPIRY_S


class Lease:
    """The right to run a study.

    Args:
        bucket: The study's own objects.
    """

    def __init__(self, bucket: Bucket) -> None:
        self._bucket = bucket
        self._key = f"{CLAIMS}/{secrets.token_hex(8)}"

    def acquire(self) -> None:
        """Take the lease.

        Raises:
            ValueError: If another process has it, naming it.
            OSError: If the storage cannot be reached or written.
        """
        others: list[_Claim] = []
        for _ in range(ATTEMPTS):
            self._write(is_held=False)
            claims = self._others()
            others = [claim for claim in claims if claim.is_live]
            if not others:
                self._write(is_held=True)
                for claim in claims:
                    self._bucket.delete(claim.key)
                return
            self.release()
            if any(claim.is_held for claim in others):
                break
            time.sleep(random.uniform(0, LONGEST_PAUSE_S))  # noqa: S311 - no secret
        raise ValueError(
            f"the study in {self._bucket.address} is running already: {others[0]}; wait for it, or "
            "stop it with `gam-ray stop`; a process that is gone is forgotten "
            f"{EXPIRY_S:g} s after it was heard last"
        )

    def renew(self) -> None:
        """Say that this process is still there.

        Raises:
            LeaseLostError: If another process has the study.
            OSError: If the storage cannot be reached or written.
        """
        claims = self._others()  # LeaseLostError if ours was taken away
        if taken := next((claim for claim in claims if claim.is_held and claim.is_live), None):
            raise LeaseLostError(f"the study was taken over by {taken}")
        self._write(is_held=True)

    def release(self) -> None:
        """Give the lease back."""
        self._bucket.delete(self._key)

    def _write(self, *, is_held: bool) -> None:
        content = {"host": socket.gethostname(), "pid": os.getpid(), "held": int(is_held)}
        self._bucket.write(self._key, json.dumps(content).encode())

    def _others(self) -> list[_Claim]:
        times = self._bucket.keys(CLAIMS)
        now = times.pop(self._key, None)
        if now is None:
            raise LeaseLostError(
                "the study was not heard for too long, and may be run by another process"
            )
        found = [(key, now - written, self._bucket.read(key)) for key, written in times.items()]
        return [_claim(key, age, json.loads(content)) for key, age, content in found if content]


def _claim(key: str, age_s: float, content: dict[str, Any]) -> _Claim:
    return _Claim(key, age_s, content["host"], content["pid"], bool(content["held"]))


def is_alive(pid: int) -> bool:
    """Whether a process of this machine is there."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
