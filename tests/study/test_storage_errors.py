"""Which errors are the storage's, and what a user is told of them."""

import errno

import pytest
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


@pytest.mark.parametrize("error", [FileNotFoundError(errno.ENOENT, "no"), ValueError("wrong")])
def test_other_errors_stay_what_they_are(error: Exception) -> None:
    assert not storage_error(error)
    with pytest.raises(type(error)), _storage_errors_told():
        raise error
