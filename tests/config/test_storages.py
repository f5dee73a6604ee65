"""Addresses of buckets in study files."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gam_ray.config import StudyConfig
from gam_ray.config.storages import working_folder

STUDY = {
    "name": "digits",
    "trial": {"task": {"source": "rendered-digits", "target": "handwritten-digits"}},
    "space": {"adaptation.weight": {"log": [0.1, 10]}},
}


def config(storage: str) -> StudyConfig:
    return StudyConfig.from_mapping({**STUDY, "storage": storage})


def test_a_study_in_a_bucket_has_a_folder_of_its_own_in_the_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GAM_RAY_CACHE", str(tmp_path))
    for storage in ("s3://my-bucket/my/studies", "s3://my-bucket/my/studies/"):
        assert config(storage).is_on_s3
        assert config(storage).folder == tmp_path / "s3" / "my-bucket" / "my" / "studies" / "digits"
    assert config("s3://my-bucket").folder == tmp_path / "s3" / "my-bucket" / "digits"
    assert not config("/mnt/s3").is_on_s3


@pytest.mark.parametrize(
    "storage",
    [
        "s3://",
        "s3:///studies",
        "s3://bucket/../../etc",
        "s3://bucket/./x",
        "s3://bucket//x",
        "s3://bucket/a b",
        "s3://bucket/x?secret_key=0123456789",
        "s3://key:0123456789@bucket/x",
        "s3://Bucket/x",
        "gs://bucket/x",
        "file:///tmp",
    ],
)
def test_what_is_no_bucket_is_refused_without_telling_a_key(storage: str) -> None:
    with pytest.raises(ValueError, match=r"must be a folder or s3://BUCKET/PREFIX") as caught:
        config(storage)
    assert "0123456789" not in str(caught.value)


@given(st.text(st.sampled_from("ab./-_:@?~ \n"), max_size=12))
def test_no_address_leads_out_of_the_cache(text: str) -> None:
    cache = working_folder("s3://bucket").parent
    try:
        folder = working_folder(f"s3://{text}")
    except ValueError:
        return
    assert Path(str(folder.resolve())).is_relative_to(cache.resolve())
    assert folder != cache
