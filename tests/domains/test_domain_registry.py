"""Domains by name, and where their data is looked for."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from gam_ray.domains import (
    Domain,
    LabelledDomain,
    LabelledImages,
    LabelsMissingError,
    UnlabelledImages,
    argument_path,
    domain_names,
    load_domain,
    load_pair,
    register_domain,
    registry,
    resolve_data_root,
)

BUILTIN = ("handwritten-digits", "mnist", "rendered-digits", "usps")


@pytest.fixture(autouse=True)
def _forget_mine() -> Iterator[None]:
    before = dict(registry._REGISTERED)
    yield
    for name in registry._REGISTERED.keys() - before.keys() - set(registry._BUILTIN):
        del registry._REGISTERED[name]


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


class Chosen(Domain):
    """A domain that takes whatever can be given."""

    problem = "segmentation"
    class_lists = {"few": ("a", "b"), "many": ("a", "b", "c")}  # noqa: RUF012

    def __init__(
        self,
        data_root: Path,
        *,
        argument: str,
        size: tuple[int, int] = (6, 8),
        classes: str | None = None,
    ) -> None:
        super().__init__(data_root)
        self.folder = argument_path(data_root, argument)
        self.image_shape = (3, *size)
        self.class_names = self.class_lists[classes or next(iter(self.class_lists))]

    def unlabelled(self, split: str) -> UnlabelledImages:
        raise NotImplementedError(split)


class Photos(Domain):
    """Images alone, of a size of their own unless another is wanted."""

    class_names = ()

    def __init__(self, data_root: Path, *, size: tuple[int, int] = (10, 12)) -> None:
        super().__init__(data_root)
        self.image_shape = (1, *size)

    def unlabelled(self, split: str) -> UnlabelledImages:
        raise NotImplementedError(split)


def chosen(name: str = "chosen", **attributes: object) -> None:
    register_domain(name)(type(name, (Chosen,), attributes))


def test_a_constructor_gets_what_it_takes(tmp_path: Path) -> None:
    chosen()
    domain = load_domain("chosen:here", data_root=tmp_path, size=(2, 3), classes="many")
    assert (domain.name, domain.folder) == ("chosen:here", tmp_path / "here")
    assert (domain.image_shape, domain.class_names) == ((3, 2, 3), ("a", "b", "c"))
    assert load_domain("chosen:x").image_shape == (3, 6, 8)


def test_an_argument_may_be_absolute_or_at_home(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    assert argument_path(tmp_path, "a/b") == tmp_path / "a" / "b"
    assert argument_path(tmp_path, "/a:b") == Path("/a:b")
    assert argument_path(tmp_path, "~/a") == Path("/home/me/a")


def test_what_a_domain_does_not_take_is_refused_all_at_once() -> None:
    with pytest.raises(ValueError, match=r"'handwritten-digits' does not take") as error:
        load_domain("handwritten-digits:there", size=(8, 8), classes="few")
    text = str(error.value)
    assert "what follows a colon, but was given 'there'" in text
    assert "a size, which is for domains that read image files, but was given (8, 8)" in text
    assert "a class list, which is for domains of segmentation, but was given 'few'" in text


@pytest.mark.parametrize("name", ["chosen", "chosen:"])
def test_what_a_domain_needs_is_asked_for(name: str) -> None:
    chosen()
    with pytest.raises(ValueError, match=r"'chosen' needs what follows a colon.*'chosen:PATH'"):
        load_domain(name)


@pytest.mark.parametrize("size", [(0, 3), (3,), (3, 4, 5), (3.0, 4)])
def test_a_size_is_two_counts(size: tuple[int, int]) -> None:
    chosen()
    with pytest.raises(ValueError, match=r"height, width., both 1 or more, but this one is "):
        load_domain("chosen:x", size=size)


def test_a_name_has_no_colon() -> None:
    with pytest.raises(ValueError, match=r"'my:own' has one\. Register the name alone"):
        register_domain("my:own")


def test_a_misspelt_name_with_an_argument_is_answered_too() -> None:
    chosen()
    with pytest.raises(ValueError, match=r"'chosne'. Did you mean 'chosen'"):
        load_domain("chosne:here")


def test_a_pair_has_the_target_s_size_and_first_common_classes(tmp_path: Path) -> None:
    chosen("origin", class_lists={"few": ("a", "b"), "many": ("c",), "odd": ("d",)})
    chosen("goal", class_lists={"many": ("x",), "odd": ("d",), "few": ("a", "b")})
    source, target = load_pair("origin:x", "goal:y", data_root=tmp_path)
    assert (source.class_names, target.class_names) == (("d",), ("d",))
    assert (source.name, target.name) == ("origin:x", "goal:y")
    given = load_pair("origin:x", "goal:y", size=(4, 4), classes="few")
    assert [each.image_shape for each in given] == [(3, 4, 4)] * 2
    assert [each.class_names for each in given] == [("a", "b")] * 2


def test_a_pair_without_a_common_list_names_both() -> None:
    chosen("origin", class_lists={"few": ("a", "b"), "odd": ("d",)})
    chosen("goal", class_lists={"few": ("a", "c"), "many": ("x",)})
    with pytest.raises(
        ValueError,
        match=r"'origin:x' has few \(a, b\) and odd \(d\) and 'goal:y' has few \(a, c\) ",
    ):
        load_pair("origin:x", "goal:y")


def test_a_target_takes_the_size_and_the_classes_of_a_source_that_has_but_one() -> None:
    register_domain("photos")(Photos)
    source, target = load_pair("handwritten-digits", "photos")
    assert target.image_shape == source.image_shape == (1, 28, 28)
    assert target.class_names == source.class_names
    assert Photos.class_names == ()
    with pytest.raises(ValueError, match=r"\(1, 28, 28\) and 'photos' has \(1, 9, 9\)"):
        load_pair("handwritten-digits", "photos", size=(9, 9))


def test_a_source_without_labels_is_refused() -> None:
    register_domain("photos")(Photos)
    with pytest.raises(LabelsMissingError, match="'photos' has no labels"):
        load_pair("photos", "handwritten-digits")


def test_a_pair_that_does_not_go_together_is_refused(tmp_path: Path) -> None:
    chosen()
    register_domain("mine")(Mine)
    register_domain("yours")(type("Yours", (Mine,), {"class_names": ("b",)}))
    with pytest.raises(ValueError, match="'mnist' is one of classification and 'chosen:x' one of"):
        load_pair("mnist", "chosen:x", data_root=tmp_path)
    with pytest.raises(ValueError, match=r"'mine' has \(1, 4, 4\) and 'usps' has \(1, 28, 28\)"):
        load_pair("mine", "usps")
    with pytest.raises(ValueError, match="'mine' has a and 'yours' has b"):
        load_pair("mine", "yours")
    with pytest.raises(ValueError, match=r"size is .* neither 'mine' nor 'yours' .*\nclasses is"):
        load_pair("mine", "yours", size=(4, 4), classes="few")


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
