"""Studies on S3 as commands see them from any machine that reaches the bucket."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gam_ray.config.storages import S3, working_folder
from gam_ray.study.bucket import Bucket
from gam_ray.study.mirror import MANIFEST, STOP, Entry, Manifest, fetch
from gam_ray.study.store import StudyFile, StudyStore, stop_request

# A command that looks again and again asks the bucket so often.
LOOK_EVERY_S = 1.0
# While files are fetched a newer snapshot may have taken their place.
ATTEMPTS = 5
# Networks are left there until they are asked for.
_LARGE = (".pt", ".pt.before")


class RemoteStore(StudyStore):
    """The files of a study on S3 but for networks, brought up to date when its state is read.

    Args:
        address: ``s3://BUCKET/PREFIX/STUDY``.

    Raises:
        ValueError: If the address is not right, or the bucket cannot be read.
    """

    def __init__(self, address: str) -> None:
        super().__init__(working_folder(address, "seen"), address)
        self._bucket = Bucket(address)
        self._bucket.check()
        self._looked: float | None = None

    def read(self, name: StudyFile) -> dict[str, Any] | None:
        """As `StudyStore.read`, of what the bucket holds now."""
        now = time.monotonic()
        if self._looked is None or now - self._looked >= LOOK_EVERY_S:
            self._refresh()
            self._looked = time.monotonic()
        return super().read(name)

    def request_stop(self) -> None:
        """Ask the process that runs the study to stop in order."""
        self._bucket.write(STOP, json.dumps(stop_request()).encode())

    def fetch(self, file: Path) -> None:
        """Bring a network here.

        Raises:
            FileNotFoundError: If the bucket does not have it.
        """
        name = str(file.relative_to(self.folder))
        manifest = Manifest.read(self._bucket)
        if manifest is None or name not in manifest.files:
            raise FileNotFoundError(f"{self._bucket.address} holds no {name}")
        fetch(self._bucket, {name: manifest.files[name]}, self.folder)

    def _refresh(self) -> None:
        for attempt in range(1, ATTEMPTS + 1):
            manifest = Manifest.read(self._bucket)
            if manifest is None:
                shutil.rmtree(self.folder, ignore_errors=True)
                return
            small = {n: e for n, e in manifest.files.items() if not n.endswith(_LARGE)}
            changed = {n: e for n, e in small.items() if not e.is_at(self.folder / n)}
            try:
                fetch(self._bucket, changed, self.folder)
            except FileNotFoundError:
                if attempt == ATTEMPTS:
                    raise
                continue
            self._forget(small)
            return

    def _forget(self, named: Mapping[str, Entry]) -> None:
        """Take away what the study does not have any more, such as that of an older one."""
        for file in self.folder.rglob("*"):
            name = str(file.relative_to(self.folder))
            is_ours = name in named or name.endswith(_LARGE) or file.name.startswith(".")
            if file.is_file() and not is_ours:
                file.unlink(missing_ok=True)


def store_at(folder: str) -> StudyStore:
    """The store of a study given by its folder, here or on S3; ``~`` is the user's.

    Raises:
        ValueError: If it is a bucket's and cannot be read.
    """
    if folder.startswith(S3):
        return RemoteStore(folder.rstrip("/"))
    return StudyStore(Path(folder).expanduser().absolute())


def studies_at(storage: str) -> Path:
    """The folder of studies of a storage; of one that is a bucket, a copy as it is now.

    Raises:
        ValueError: If the address is not right, or the bucket cannot be read.
    """
    if not storage.startswith(S3):
        return Path(storage)
    bucket = Bucket(storage)
    bucket.check()
    folder = working_folder(storage, "seen")
    names = [name for name in bucket.folders() if bucket.below(name).read(MANIFEST) is not None]
    for known in folder.iterdir() if folder.is_dir() else ():
        if known.name not in names:
            shutil.rmtree(known, ignore_errors=True)
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        RemoteStore(f"{bucket.address}/{name}").read("state")
    return folder
