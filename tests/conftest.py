"""What holds for every test: nothing is reported to anyone, and CI draws the same examples."""

import os
from pathlib import Path

import pytest
from hypothesis import settings

# Before Ray and MLflow are imported; their child processes inherit it.
os.environ.update(RAY_USAGE_STATS_ENABLED="0", MLFLOW_DISABLE_TELEMETRY="true")

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
