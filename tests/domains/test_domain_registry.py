"""Domains by name, and where their data is looked for."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from gam_ray.domains import (
    LabelledDomain,
    LabelledImages,
    domain_names,
    load_domain,
    register_domain,
    registry,
    resolve_data_root,
)

BUILTIN = ("handwritten-digits", "mnist", "rendered-digits", "usps")


@pytest.fixture(autouse=True)
def _forget_mine() -> Iterator[None]:
    yield
    registry._REGISTERED.pop("mine", None)


class Mine(LabelledDomain):
    """A user's own domain."""

    class_names, image_shape = ("a",), (1, 4, 4)

    def _load(self, split: str) -> dict[str, LabelledImages]:
        raise NotImplementedError(split)


def test_the_builtin_domains_know_their_names() -> None:
    assert set(BUILTIN) <= set(domain_names())
    assert [load_domain(name).name for name in BUILTIN] == list(BUILTIN)


def test_an_own_domain_is_loaded_by_its_name(tmp_path: Path) -> None:
    register_domain("mine")(Mine)
    assert "mine" in domain_names()
    domain = load_domain("mine", data_root=tmp_path)
    assert isinstance(domain, Mine)
    assert (domain.name, domain.data_root) == ("mine", tmp_path)


def test_a_class_may_register_again_but_another_may_not_take_its_name() -> None:
    register_domain("mine")(Mine)
    register_domain("mine")(Mine)
    other = type("Other", (Mine,), {})
    with pytest.raises(ValueError, match=r"'mine' belongs to .*:Mine\. Register .*:Other under"):
        register_domain("mine")(other)


@pytest.mark.parametrize("loaded", [False, True])
def test_a_builtin_name_is_taken_before_and_after_its_import(loaded: bool) -> None:
    if loaded:
        load_domain("rendered-digits")
    with pytest.raises(ValueError, match=r"'rendered-digits' belongs to gam_ray\.domains"):
        register_domain("rendered-digits")(Mine)


@pytest.mark.parametrize(
    ("written", "meant"), [("minst", "mnist"), ("USPS", "usps"), ("render_digits", "rendered")]
)
def test_an_unknown_name_is_answered_with_the_nearest(written: str, meant: str) -> None:
    with pytest.raises(ValueError, match=f"'{written}'. Did you mean '{meant}") as error:
        load_domain(written)
    assert all(name in str(error.value) for name in BUILTIN)


def test_a_name_like_no_other_gets_the_list_alone() -> None:
    with pytest.raises(ValueError, match=r"No domain is called 'zzz'\. Known: "):
        load_domain("zzz")


def test_the_data_root_is_the_argument_then_the_variable_then_data(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GAM_RAY_DATA", "/from/variable")
    assert resolve_data_root(Path("/given")) == Path("/given")
    assert resolve_data_root(None) == Path("/from/variable")
    monkeypatch.setenv("GAM_RAY_DATA", "")
    assert resolve_data_root(None) == tmp_path / "data"
    monkeypatch.delenv("GAM_RAY_DATA")
    assert resolve_data_root(None) == tmp_path / "data"


def test_the_data_root_is_absolute_and_home_is_expanded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert resolve_data_root(Path("~/sets")) == tmp_path / "sets"
    monkeypatch.chdir(tmp_path)
    assert resolve_data_root(Path("sets")) == tmp_path / "sets"


def test_the_room_is_cheap_to_import() -> None:
    heavy = "torchvision", "sklearn", "matplotlib"
    code = f"import sys, gam_ray.domains; print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
