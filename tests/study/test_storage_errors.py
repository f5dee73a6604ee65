"""Which errors are the storage's, and what a user is told of them."""

import errno
import sqlite3
from pathlib import Path

import optuna
import pytest
import sqlalchemy
from ray.exceptions import RayTaskError

from gam_ray.study.errors import StudyError, storage_error
from gam_ray.study.study import _storage_errors_told

READ_ONLY = OSError(errno.EROFS, "Read-only file system")


def of_an_actor(cause: Exception) -> Exception:
    """An error as `ray.get` raises it."""
    wrapped: Exception = RayTaskError("close", "Traceback", cause).as_instanceof_cause()
    return wrapped


@pytest.mark.parametrize("error", [READ_ONLY, of_an_actor(READ_ONLY)], ids=["here", "in an actor"])
def test_a_storage_that_cannot_be_written_is_named_with_what_to_do(error: OSError) -> None:
    assert storage_error(error) is READ_ONLY
    told = pytest.raises(StudyError, match=r"storage cannot be written \(.*Read-only")
    with told as caught, _storage_errors_told():
        raise error
    assert "has room and is writable" in str(caught.value)
    assert "run the study again to go on" in str(caught.value)


def test_so_is_a_disk_that_optunas_database_cannot_be_written_on(tmp_path: Path) -> None:
    file = tmp_path / "optuna.db"
    study = optuna.create_study(storage=f"sqlite:///{file}")
    with sqlite3.connect(file) as connection:  # no page more than it has
        pages = connection.execute("pragma page_count").fetchone()[0]
    engine = study._storage._backend.engine  # type: ignore[attr-defined]
    limit = f"pragma max_page_count = {pages}"
    sqlalchemy.event.listen(engine, "connect", lambda found, _: found.execute(limit))
    engine.dispose()
    told = pytest.raises(StudyError, match=r"storage cannot be written \(database or disk is full")
    with told, _storage_errors_told():
        study.set_user_attr("much", "x" * 2_000_000)


@pytest.mark.parametrize("error", [FileNotFoundError(errno.ENOENT, "no"), ValueError("wrong")])
def test_other_errors_stay_what_they_are(error: Exception) -> None:
    assert not storage_error(error)
    with pytest.raises(type(error)), _storage_errors_told():
        raise error
