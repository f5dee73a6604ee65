"""The odd and the even digits alone."""

from pathlib import Path

import pytest
import torch

from gam_ray.domains import SPLITS, DataMissingError, Split, load_domain
from gam_ray.domains.label_shift import HalfOfTheDigits

NAMES = [f"{base}-{parity}" for base in ("mnist", "usps", "svhn") for parity in ("even", "odd")]


class Odd(HalfOfTheDigits):
    """Half of the digits that need no download."""

    name, base, parity = "handwritten-digits-odd", "handwritten-digits", "odd"


class Even(HalfOfTheDigits):
    """The other half of them."""

    name, base, parity = "handwritten-digits-even", "handwritten-digits", "even"


@pytest.mark.parametrize("name", NAMES)
def test_a_variant_is_named_after_the_digits_that_remain(name: str) -> None:
    domain = load_domain(name)
    assert isinstance(domain, HalfOfTheDigits)
    assert domain.name == name == f"{domain.base}-{domain.parity}"
    assert domain.class_names == tuple("0123456789")
    assert f"The {domain.parity} digits of `{domain.base}`" in str(type(domain).__doc__)


@pytest.mark.parametrize("split", SPLITS)
@pytest.mark.parametrize(
    ("variant", "remaining"), [(Odd, [1, 3, 5, 7, 9]), (Even, [0, 2, 4, 6, 8])]
)
def test_the_other_digits_are_gone_and_the_order_is_kept(
    variant: type[HalfOfTheDigits], remaining: list[int], split: Split
) -> None:
    whole = load_domain("handwritten-digits").labelled(split)
    kept = torch.isin(whole.labels, torch.tensor(remaining))
    half = variant(Path("anywhere")).labelled(split)
    assert torch.unique(half.labels).tolist() == remaining
    assert torch.equal(half.labels, whole.labels[kept])
    assert torch.equal(half.images, whole.images[kept])


@pytest.mark.parametrize("split", SPLITS)
def test_the_two_halves_make_up_the_whole(split: Split) -> None:
    whole = load_domain("handwritten-digits").labelled(split)
    halves = [half(Path("anywhere")).labelled(split) for half in (Odd, Even)]
    assert sum(map(len, halves)) == len(whole)


def test_a_base_that_is_not_there_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError("no network in tests")

    path = "gam_ray.domains.torchvision_digits.TorchvisionDigits._download_to"
    monkeypatch.setattr(path, refuse)
    with pytest.raises(DataMissingError, match=f"'svhn' are not there.*\nExpected in {tmp_path}"):
        load_domain("svhn-odd", data_root=tmp_path).labelled("train")
