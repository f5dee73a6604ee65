"""What holds for every test: nothing is reported to anyone, and CI draws the same examples."""

import itertools
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings
from s3_server import SECRET, s3_server

# Before Ray and MLflow are imported; their child processes inherit it.
os.environ.update(RAY_USAGE_STATS_ENABLED="0", MLFLOW_DISABLE_TELEMETRY="true")

_numbers = itertools.count()

settings.register_profile("gam_ray", deadline=None, derandomize="CI" in os.environ)
settings.load_profile("gam_ray")


@pytest.fixture(scope="session")
def data_root() -> Path:
    """The folder of the data sets: GAM_RAY_DATA, or `shared/data` beside the repository."""
    named = os.environ.get("GAM_RAY_DATA")
    folder = Path(named) if named else Path(__file__).parents[2] / "shared" / "data"
    if not folder.is_dir():
        pytest.skip(f"no data sets in {folder}; set GAM_RAY_DATA to the folder that holds them")
    return folder


@pytest.fixture(scope="session")
def server() -> Iterator[str]:
    """The address of an S3 server."""
    with s3_server() as address:
        yield address


@pytest.fixture
def s3(server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """``s3://BUCKET/studies`` of a new bucket, with keys and this machine's cache set."""
    import boto3

    monkeypatch.setenv("AWS_ENDPOINT_URL", server)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "a-key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    monkeypatch.setenv("GAM_RAY_CACHE", str(tmp_path / "cache"))
    name = f"bucket-{next(_numbers)}"
    boto3.client("s3").create_bucket(Bucket=name)
    return f"s3://{name}/studies"
