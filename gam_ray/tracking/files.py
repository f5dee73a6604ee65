"""Files that a crash at any moment leaves readable."""

import json
import os
import threading
from collections.abc import Mapping
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO

_BLOCK = 1 << 16  # bytes


class JsonLines:
    """An append-only file with one JSON object a line, written by one process.

    A crash in the middle of a write leaves a last line without its end. Readers pass over it, and
    the next append cuts it off: its writer was never told that it is safe.

    Args:
        path: The file; its folder must exist.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._descriptor: int | None = None

    def append(self, record: Mapping[str, Any]) -> None:
        """Write one object and wait until it is on the disk.

        Args:
            record: The object.

        Raises:
            OSError: If the disk refuses, naming the file; what was written of it is cut off by the
                next append.
        """
        line = json.dumps(record, separators=(",", ":")).encode() + b"\n"
        with self._lock:
            if self._descriptor is None:
                self._descriptor = self._open()
            try:
                _write_all(self._descriptor, line)
                os.fsync(self._descriptor)
            except OSError as error:
                self._release()
                if error.errno and error.filename is None:  # a write does not name its file
                    error.filename = str(self._path)
                raise

    def read(self, offset: int, limit: int | None = None) -> list[tuple[int, bytes]]:
        """Read complete lines.

        Args:
            offset: Where to begin, in bytes: 0, or one that an earlier call returned.
            limit: At most so many lines; None for all.

        Returns:
            For each line the offset behind it, and its bytes.

        Raises:
            OSError: If the file cannot be read; one that does not exist is empty.
        """
        lines: list[tuple[int, bytes]] = []
        if not self._path.exists():
            return lines
        with self._path.open("rb") as file:
            file.seek(offset)
            for line in islice(file, limit):
                if not line.endswith(b"\n"):
                    break
                offset += len(line)
                lines.append((offset, line))
        return lines

    def count(self, offset: int) -> int:
        """Count the complete lines behind an offset in bytes.

        Raises:
            OSError: If the file cannot be read; one that does not exist is empty.
        """
        if not self._path.exists():
            return 0
        with self._path.open("rb") as file:
            file.seek(offset)
            return sum(block.count(b"\n") for block in iter(lambda: file.read(_BLOCK), b""))

    def size(self) -> int:
        """Return the bytes in the file, 0 if there is none."""
        return self._path.stat().st_size if self._path.exists() else 0

    def close(self) -> None:
        """Give the file handle back; a later append opens the file again."""
        with self._lock:
            self._release()

    def _open(self) -> int:
        descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
        with self._path.open("rb") as file:
            os.ftruncate(descriptor, _end_of_last_line(file))
        return descriptor

    def _release(self) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None


def replace_json(path: Path, content: Mapping[str, Any]) -> None:
    """Replace a JSON file so that a reader sees the old or the new content, never a part.

    Raises:
        OSError: If the disk refuses; the old content stays.
    """
    replace_text(path, json.dumps(content))


def replace_text(path: Path, text: str) -> None:
    """Replace a file of text in the same way.

    Raises:
        OSError: If the disk refuses; the old content stays.
    """
    draft = path.with_name(path.name + ".tmp")
    with draft.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    draft.replace(path)


def _write_all(descriptor: int, line: bytes) -> None:
    while line:
        line = line[os.write(descriptor, line) :]


def _end_of_last_line(file: BinaryIO) -> int:
    end = file.seek(0, os.SEEK_END)
    while end > 0:
        start = max(0, end - _BLOCK)
        file.seek(start)
        found = file.read(end - start).rfind(b"\n")
        if found >= 0:
            return start + found + 1
        end = start
    return 0
