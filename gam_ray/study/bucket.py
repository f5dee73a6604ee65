"""Objects of an S3 bucket, by pyarrow; keys and endpoint come from the environment."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from gam_ray.config.secrets import masked

SCHEME = "s3://"
# Seconds; pyarrow's own 1 and 3 are short for a busy server.
CONNECT_TIMEOUT_S, REQUEST_TIMEOUT_S = 5.0, 20.0
READS = 3
CHUNK = 8 * 2**20  # bytes
_EPOCH = datetime.fromtimestamp(0, UTC)

# What the server says → what to do. The first that fits.
_REMEDIES = {
    "ACCESS_DENIED": "let these keys list, read, write and delete objects there",
    "FORBIDDEN": "let these keys list, read, write and delete objects there",
    "INVALID_ACCESS_KEY_ID": "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY to keys it knows",
    "NO_SUCH_BUCKET": "make the bucket again",
    "SIGNATURE": "set AWS_SECRET_ACCESS_KEY to the secret of AWS_ACCESS_KEY_ID",
    "NETWORK_CONNECTION": "see that AWS_ENDPOINT_URL names the server and that it is reached",
}
_OTHERWISE = (
    "see AWS_ENDPOINT_URL, AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and AWS_REGION in the "
    "environment of this process"
)


class Bucket:
    """The objects whose keys begin with a prefix.

    S3 shows what was written to whoever asks after it, listings included; this stands on it.

    Args:
        address: ``s3://bucket/prefix``.
    """

    def __init__(self, address: str) -> None:
        from pyarrow.fs import S3FileSystem

        self.address = address.rstrip("/")
        self._root = self.address.removeprefix(SCHEME)
        self._s3: Any = S3FileSystem(
            connect_timeout=CONNECT_TIMEOUT_S,
            request_timeout=REQUEST_TIMEOUT_S,
            # One request a small object, in place of three.
            allow_delayed_open=True,
            **_endpoint(),
        )

    def below(self, prefix: str) -> Bucket:
        """The objects with a longer prefix."""
        return Bucket(f"{self.address}/{prefix}")

    def check(self) -> None:
        """Find out whether the bucket is there and can be listed.

        Raises:
            ValueError: If it is not, with what to do.
        """
        from pyarrow.fs import FileType

        name = self._root.partition("/")[0]
        try:
            self._list(recursive=False)  # whose errors say more
            found = self._s3.get_file_info(name).type
        except OSError as error:
            raise ValueError(
                f"storage: {self.address} must be a bucket that can be read: {_told(error)}; "
                f"{_remedy(error)}"
            ) from None
        if found == FileType.NotFound:
            raise ValueError(
                f"storage: {self.address} must be in a bucket that is there, but the server has "
                f"no {name!r}; make it, or set AWS_ENDPOINT_URL to the server that has it"
            )

    def write(self, key: str, content: bytes) -> None:
        """Put an object in place, whole or not at all."""
        with self._errors(key), self._s3.open_output_stream(self._path(key)) as stream:
            stream.write(content)

    def upload(self, file: Path, key: str) -> None:
        """Put a file in place; if cut off, a part of it may be there under this key."""
        with (
            file.open("rb") as source,
            self._errors(key),
            self._s3.open_output_stream(self._path(key)) as stream,
        ):
            shutil.copyfileobj(source, stream, CHUNK)

    def read(self, key: str) -> bytes | None:
        """An object's content, or None if it is not there.

        pyarrow asks for the size first: one that was replaced since is read again.
        """
        for attempt in range(1, READS + 1):
            try:
                with self._errors(key):
                    return self._read_whole(key)
            except FileNotFoundError:
                return None
            except OSError:
                if attempt == READS:
                    raise
        raise AssertionError

    def _read_whole(self, key: str) -> bytes:
        path = self._path(key)
        with self._s3.open_input_stream(path) as stream:
            content: bytes = stream.read()
        if (size := self._s3.get_file_info(path).size) not in (None, len(content)):
            raise OSError(f"{len(content)} bytes were read, but it has {size}")
        return content

    def download(self, key: str, file: Path) -> None:
        """Write an object to a file.

        Raises:
            FileNotFoundError: If it is not there.
        """
        with (
            self._errors(key),
            self._s3.open_input_stream(self._path(key)) as stream,
            file.open("wb") as target,
        ):
            shutil.copyfileobj(stream, target, CHUNK)

    def keys(self, prefix: str) -> dict[str, float]:
        """Key → when it was written, in seconds of the server's clock, of all below a prefix."""
        with self._errors(prefix):
            return {
                info.path.removeprefix(f"{self._root}/"): (info.mtime - _EPOCH).total_seconds()
                for info in self._list(prefix, recursive=True)
                if info.is_file
            }

    def folders(self) -> list[str]:
        """Names of what keys have between this prefix and their next slash."""
        from pyarrow.fs import FileType

        with self._errors(""):
            infos = self._list(recursive=False)
        return sorted(info.base_name for info in infos if info.type == FileType.Directory)

    def delete(self, key: str) -> None:
        """Take an object away, if it is there."""
        try:
            with self._errors(key):
                self._s3.delete_file(self._path(key))
        except FileNotFoundError:
            return

    def clear(self) -> None:
        """Take away all objects below the prefix."""
        with self._errors(""):
            self._s3.delete_dir(self._root)

    def _list(self, prefix: str = "", *, recursive: bool) -> list[Any]:
        from pyarrow.fs import FileSelector

        where = FileSelector(self._path(prefix), recursive=recursive, allow_not_found=True)
        found: list[Any] = self._s3.get_file_info(where)
        return found

    def _path(self, key: str) -> str:
        return f"{self._root}/{key}".rstrip("/")

    @contextmanager
    def _errors(self, key: str) -> Iterator[None]:
        """Errors of the server in one line, without the environment's secrets."""
        try:
            yield
        except FileNotFoundError:
            raise
        except OSError as error:
            told = f"{self.address}/{key}: {_told(error)}; {_remedy(error)}"
            raise OSError(told) from None


def _endpoint() -> dict[str, str]:
    """The server that the environment names, which pyarrow's constructor does not ask for."""
    url = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
    if not url:
        return {}
    scheme, _, host = url.rpartition("://")
    return {"scheme": scheme or "https", "endpoint_override": host.rstrip("/")}


def _told(error: OSError) -> str:
    return masked(str(error).partition("\n")[0])


def _remedy(error: OSError) -> str:
    told = str(error)
    return next((what for name, what in _REMEDIES.items() if name in told), _OTHERWISE)
