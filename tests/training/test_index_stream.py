"""The order in which a trial draws its images."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from gam_ray.config import TaskConfig
from gam_ray.training.data import IndexStream, load_task, to_float

counts, sizes, seeds = st.integers(1, 30), st.integers(1, 40), st.integers(0, 2**63)


def drawn(count: int, size: int, seed: int, steps: int) -> list[int]:
    stream = IndexStream(count, size, seed)
    return torch.cat([stream.batch(step) for step in range(steps)]).tolist()


@given(count=counts, size=sizes, seed=seeds)
def test_every_pass_is_a_permutation(count: int, size: int, seed: int) -> None:
    steps = -(-3 * count // size)
    items = drawn(count, size, seed, steps)
    assert len(items) == steps * size
    for start in range(0, 3 * count, count):
        assert sorted(items[start : start + count]) == list(range(count))


@given(count=counts, size=sizes, seed=seeds, steps=st.lists(st.integers(0, 20), max_size=6))
def test_any_step_may_be_asked_for_first(
    count: int, size: int, seed: int, steps: list[int]
) -> None:
    items, stream = drawn(count, size, seed, 21), IndexStream(count, size, seed)
    for step in steps:
        assert stream.batch(step).tolist() == items[step * size : (step + 1) * size]


def test_passes_differ_and_so_do_seeds() -> None:
    orders = [tuple(drawn(50, 50, seed, 3)) for seed in range(5)]
    assert len(set(orders)) == 5
    assert len({order[start : start + 50] for order in orders for start in (0, 50, 100)}) == 15


def test_images_become_floats_between_0_and_1() -> None:
    images = torch.tensor([0, 51, 255], dtype=torch.uint8).view(1, 1, 1, 3)
    assert to_float(images).flatten().tolist() == pytest.approx([0, 0.2, 1])
    assert images.dtype == torch.uint8
    assert images.max() == 255


@pytest.mark.parametrize(
    ("shape", "names", "message"),
    [
        ((3, 28, 28), tuple("0123456789"), "have one shape, but 'tiny-source' has"),
        ((1, 28, 28), tuple("abcdefghij"), "have the same classes .* but 'tiny-source' has 0, 1,"),
    ],
)
def test_domains_that_do_not_go_together_are_refused(
    shape: tuple[int, ...], names: tuple[str, ...], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tiny_task import Unlabelled

    monkeypatch.setattr(Unlabelled, "image_shape", shape)
    monkeypatch.setattr(Unlabelled, "class_names", names)
    with pytest.raises(ValueError, match=message):
        load_task(TaskConfig(source="tiny-source", target="tiny-unlabelled"), None)
