"""A study on S3: one process holds it, works in a folder of its machine, and carries that over.

The study writes its folder as it does without S3. Every few seconds a snapshot of it is brought
to the bucket: what is new as objects with new keys, and then, in one write, the manifest that names
all of them. Whatever is cut off, and wherever, the manifest names the files of one moment; from
them the study goes on, here or on another machine::

    s3://BUCKET/PREFIX/STUDY/
      manifest.json        path → object, of the newest snapshot
      files/PATH.TOKEN     contents, each written once; taken away when no longer named
      stop.json            that the study is to stop, until its process has heard it
      .lease/TOKEN         who runs it
"""

from __future__ import annotations

import json
import logging
import os
import secrets
import shutil
import sqlite3
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from gam_ray.config.storages import CACHE
from gam_ray.study.bucket import Bucket
from gam_ray.study.errors import StudyError
from gam_ray.study.lease import RENEW_EVERY_S, Lease, LeaseLostError
from gam_ray.study.snapshot import Identity, Taken, identity, take
from gam_ray.study.store import StudyStore, stop_request
from gam_ray.tracking.files import replace_json

logger = logging.getLogger(__name__)

MANIFEST, FILES, STOP = "manifest.json", "files", "stop.json"
# In the study's folder: which copy it is.
OWN = ".mirror"
PUSH_EVERY_S, LOOK_EVERY_S = 5.0, 2.0
# A storage that has not answered for so long stops the study, in time before its lease expires.
PATIENCE_S = 90.0
LAST_ATTEMPTS, LAST_PAUSE_S = 3, 2.0
CONNECTIONS = 8


@dataclass(frozen=True)
class Entry:
    """A file in the bucket.

    Attributes:
        object: Key of its content.
        size: Bytes of it.
        time_ns: Of the last change in the folder that it came from.
    """

    object: str
    size: int
    time_ns: int

    def is_at(self, file: Path) -> bool:
        """Whether a file is this one, by its size and time."""
        return file.exists() and identity(file)[1:] == (self.time_ns, self.size)


@dataclass(frozen=True)
class Manifest:
    """What is in the bucket.

    Attributes:
        copy: Which folder it came from: no other one is as new.
        folder: Where that was, which MLflow's database and queue name.
        files: Path in the folder → entry.
    """

    copy: str
    folder: str
    files: Mapping[str, Entry]

    @classmethod
    def read(cls, bucket: Bucket) -> Manifest | None:
        """The newest one, or None if the bucket holds no such study.

        Raises:
            OSError: If the storage cannot be reached or read.
            ValueError: If it is damaged.
        """
        content = bucket.read(MANIFEST)
        if content is None:
            return None
        try:
            data = json.loads(content)
            files = {name: Entry(**entry) for name, entry in data["files"].items()}
            return cls(data["copy"], data["folder"], files)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ValueError(
                f"{bucket.address}/{MANIFEST} must be as gam_ray wrote it, but it is not "
                f"({error!r}); bring the object back"
            ) from error

    def write(self, bucket: Bucket) -> None:
        """Make this the newest one."""
        bucket.write(MANIFEST, json.dumps(asdict(self)).encode())


class Mirror:
    """A study's folder on this machine, and its place in a bucket.

    Args:
        address: ``s3://BUCKET/PREFIX/STUDY``.
        folder: The study's, on this machine.
    """

    def __init__(self, address: str, folder: Path) -> None:
        self.address = address
        self._store = StudyStore(folder)
        self._folder = folder
        self._bucket: Any = None
        self._lease: Any = None
        self._manifest = Manifest("", str(folder), {})
        self._known: dict[Identity, Entry] = {}
        self._copy = ""
        self._lost: LeaseLostError | None = None
        self._failing_since: dict[str, float] = {}
        self._done = threading.Event()

    @contextmanager
    def held(self) -> Iterator[None]:
        """Hold the study, with its folder here as it is in the bucket, until the block ends.

        The block's end is in the bucket when this ends. Within itself it does nothing more.

        Raises:
            ValueError: If another process holds the study, naming it, or the bucket cannot be read.
            StudyError: If the end did not reach the bucket, or another process took the study over.
            OSError: If the bucket cannot be written.
        """
        if self._lease is not None:
            yield
            return
        self._bucket = Bucket(self.address)
        self._bucket.check()
        lease = Lease(self._bucket)
        lease.acquire()
        self._lease, self._lost = lease, None
        try:
            self._bring_here()
            self._bucket.delete(STOP)
            self._push()
            with self._followed():
                yield
            self._push_the_end()
        finally:
            self._lease = None
            if not self._lost:
                _quietly(lease.release)

    # Into the bucket

    @contextmanager
    def _followed(self) -> Iterator[None]:
        """Bring what changes to the bucket, keep the lease, hear of a stop; each in a thread."""
        self._done.clear()
        threads = [
            threading.Thread(target=self._repeat, args=each, name=each[0], daemon=True)
            for each in (
                ("mirror", PUSH_EVERY_S, self._push),
                ("lease", RENEW_EVERY_S, self._lease.renew),
                ("stop", LOOK_EVERY_S, self._hear),
            )
        ]
        for thread in threads:
            thread.start()
        try:
            yield
        except BaseException:
            self._join(threads)
            # The block's own error counts; what fails now is logged.
            _quietly(self._push_the_end)
            raise
        self._join(threads)

    def _join(self, threads: Iterable[threading.Thread]) -> None:
        self._done.set()
        for thread in threads:
            thread.join()

    def _repeat(self, name: str, every_s: float, action: Callable[[], None]) -> None:
        while not self._done.wait(every_s) and not self._lost:
            try:
                action()
            except LeaseLostError as error:
                self._lost = error
                self._ask_to_stop(str(error))
            except Exception as error:  # noqa: BLE001 - a thread that ended would lose the study
                self._failed(name, error)
            else:
                self._failing_since.pop(name, None)

    def _failed(self, name: str, error: Exception) -> None:
        now = time.monotonic()
        if name not in self._failing_since:
            logger.warning("the study's storage does not answer: %s", error)
        since = self._failing_since.setdefault(name, now)
        if now - since > PATIENCE_S:
            self._ask_to_stop(f"its storage has not answered for {now - since:.0f} s ({error})")

    def _ask_to_stop(self, reason: str) -> None:
        _quietly(partial(self._store.write, "stop", stop_request(reason=reason)))

    def _hear(self) -> None:
        """Pass on that somebody asks for a stop."""
        asked = self._bucket.read(STOP)
        if asked is not None:
            self._store.write("stop", {**json.loads(asked)})
            self._bucket.delete(STOP)

    def _push_the_end(self) -> None:
        """Bring the last state over.

        Raises:
            StudyError: If that could not be done.
        """
        if self._lost:
            raise self._lost
        self._forget_databases()
        for attempt in range(1, LAST_ATTEMPTS + 1):
            try:
                self._push()
            except (OSError, sqlite3.Error) as error:
                if attempt == LAST_ATTEMPTS:
                    raise StudyError(
                        f"the study's end did not reach {self.address}: {error}; it is whole in "
                        f"{self._folder}: run `gam-ray resume {self.address}` on this machine"
                    ) from error
                time.sleep(LAST_PAUSE_S)
            else:
                return

    def _push(self) -> None:
        """Bring a snapshot to the bucket, if anything has changed.

        Raises:
            LeaseLostError: If another process has the study.
            OSError: If the storage cannot be reached or written.
            sqlite3.Error: If a database is busy for too long.
        """
        staging = self._folder / OWN / "staging"
        shutil.rmtree(staging, ignore_errors=True)
        staging.mkdir(parents=True)
        taken = take(self._folder, staging)
        with ThreadPoolExecutor(CONNECTIONS) as executor:
            entries = list(executor.map(self._entry, taken, taken.values()))
        shutil.rmtree(staging)
        before = self._manifest
        now = Manifest(self._copy, str(self._folder), dict(zip(taken, entries, strict=True)))
        if now != before:
            self._lease.renew()  # it may have been lost while this took its time
            now.write(self._bucket)
            self._manifest = now
            kept = {entry.object for entry in entries}
            self._known = {key: each for key, each in self._known.items() if each.object in kept}
            self._delete(each.object for each in before.files.values() if each.object not in kept)

    def _entry(self, name: str, taken: Taken) -> Entry:
        """The bucket's entry of a file, uploaded unless it is there."""
        if taken.identity not in self._known:
            key = f"{FILES}/{name}.{secrets.token_hex(4)}"
            self._bucket.upload(taken.file, key)
            size = taken.file.stat().st_size
            self._known[taken.identity] = Entry(key, size, taken.identity[1])
        return self._known[taken.identity]

    def _forget_databases(self) -> None:
        """Have databases brought over whatever their times say, which are coarse."""
        for name in self._manifest.files:
            if name.endswith(".db"):
                with suppress(FileNotFoundError):
                    self._known.pop(identity(self._folder / name), None)

    def _delete(self, keys: Iterable[str]) -> None:
        with ThreadPoolExecutor(CONNECTIONS) as executor:
            list(executor.map(partial(_quietly_with, self._bucket.delete), keys))

    # From the bucket

    def _bring_here(self) -> None:
        """Have in the folder what is in the bucket, unless it came from here and is as new."""
        manifest = Manifest.read(self._bucket)
        own = self._folder / OWN / "copy.json"
        content = json.loads(own.read_text()) if own.exists() else {}
        copy = content.get("copy")
        if manifest is None:
            self._begin(own, content)
            return
        if manifest.folder != str(self._folder):
            raise ValueError(
                f"the study in {self.address} must be run in the folder in which it began, which "
                f"MLflow's database and queue name: that was {manifest.folder}, and here it would "
                f"be {self._folder}; set {CACHE} (by default ~/.cache/gam_ray) so that it is"
            )
        if copy != manifest.copy:
            logger.info("bringing %s to %s", self.address, self._folder)
            copy = self._restore(manifest)
        self._copy, self._manifest = copy, manifest
        self._known = {}
        for name, entry in manifest.files.items():
            if entry.is_at(self._folder / name):
                self._known[identity(self._folder / name)] = entry
        named = {entry.object for entry in manifest.files.values()}
        self._delete(key for key in self._bucket.keys(FILES) if key not in named)

    def _begin(self, own: Path, content: Mapping[str, Any]) -> None:
        """Begin a study that the bucket does not hold."""
        if content.get("pushed"):
            raise ValueError(
                f"{self.address} no longer holds the study of which {self._folder} is the copy; "
                "delete that folder to begin anew, or bring the objects back"
            )
        self._copy = content.get("copy") or secrets.token_hex(8)
        own.parent.mkdir(parents=True, exist_ok=True)
        self._manifest = Manifest("", str(self._folder), {})
        replace_json(own, {"copy": self._copy, "pushed": False})
        self._push()
        replace_json(own, {"copy": self._copy, "pushed": True})

    def _restore(self, manifest: Manifest) -> str:
        """Put what is in the bucket in the place of the folder; the new copy's name."""
        draft = self._folder.with_name(f".{self._folder.name}.new")
        shutil.rmtree(draft, ignore_errors=True)
        copy = secrets.token_hex(8)
        (draft / OWN).mkdir(parents=True)
        fetch(self._bucket, manifest.files, draft)
        replace_json(draft / OWN / "copy.json", {"copy": copy, "pushed": True})
        shutil.rmtree(self._folder, ignore_errors=True)
        draft.replace(self._folder)
        return copy


def fetch(bucket: Bucket, files: Mapping[str, Entry], folder: Path) -> None:
    """Download files into a folder, each whole or not at all, with their times.

    Raises:
        FileNotFoundError: If one is there no longer.
        OSError: If the storage cannot be reached, or one is not whole.
    """

    def fetch_one(name: str) -> None:
        entry, file = files[name], folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        draft = file.with_name(f".{file.name}.{secrets.token_hex(4)}")
        try:
            bucket.download(entry.object, draft)
            if (size := draft.stat().st_size) != entry.size:
                raise OSError(
                    f"{bucket.address}/{entry.object} must have {entry.size} bytes, but has {size};"
                    " the bucket was changed by somebody else: bring the object back"
                )
            os.utime(draft, ns=(entry.time_ns, entry.time_ns))
            draft.replace(file)
        finally:
            draft.unlink(missing_ok=True)

    for name in files:
        if not (folder / name).resolve().is_relative_to(folder.resolve()):
            raise ValueError(f"the manifest in {bucket.address} names a file outside: {name}")
    with ThreadPoolExecutor(CONNECTIONS) as executor:
        list(executor.map(fetch_one, files))


def _quietly(action: Callable[[], Any]) -> None:
    try:
        action()
    except (OSError, StudyError, sqlite3.Error) as error:
        logger.warning("%s", error)


def _quietly_with(action: Callable[[str], Any], key: str) -> None:
    _quietly(partial(action, key))
