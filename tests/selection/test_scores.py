"""Label-free scores, against numpy, scikit-learn and closed forms."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from sklearn.cluster import KMeans
from sklearn.metrics import adjusted_mutual_info_score
from torch import Tensor

from gam_ray.selection.scores import class_ami, information_maximisation

CLASSES = 5
logits = arrays(
    np.float64, st.tuples(st.integers(1, 8), st.integers(2, 6)), elements=st.floats(-9, 9)
)


def softmax(values: np.ndarray) -> np.ndarray:
    return np.exp(values) / np.exp(values).sum(1, keepdims=True)


def sure_of(labels: Tensor) -> Tensor:
    """Predictions [N, CLASSES] of these labels with 0.9 and more."""
    sure = torch.full((len(labels), CLASSES), 0.02)
    sure[torch.arange(len(labels)), labels] = 1 - 0.02 * (CLASSES - 1)
    return sure


def blobs(*, spread: float, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Features [100, 3] around a point for each class, and the classes."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(100) % CLASSES
    centres = 10 * torch.randn(CLASSES, 3, generator=generator)
    return centres[labels] + spread * torch.randn(100, 3, generator=generator), labels


@given(values=logits)
def test_information_maximisation_is_the_mutual_information(values: np.ndarray) -> None:
    p = softmax(values)
    mean = p.mean(0)
    expected = -(mean * np.log(mean)).sum() + (p * np.log(p)).sum(1).mean()
    found = information_maximisation(torch.from_numpy(p))
    assert found == pytest.approx(expected, abs=1e-12)
    assert -1e-12 <= found <= math.log(p.shape[1]) + 1e-12


@pytest.mark.parametrize("classes", [2, 10])
def test_information_maximisation_has_its_closed_forms(classes: int) -> None:
    balanced = torch.eye(classes).repeat(3, 1)
    assert information_maximisation(balanced) == pytest.approx(math.log(classes))
    uniform = torch.full((6, classes), 1 / classes)
    assert information_maximisation(uniform) == pytest.approx(0, abs=1e-7)
    collapsed = torch.eye(classes)[[0] * 6]
    assert information_maximisation(collapsed) == 0


@pytest.mark.parametrize("wrong", [0, 20, 60])
@pytest.mark.parametrize("seed", [0, 2**63 - 1])
def test_class_ami_is_the_agreement_with_independent_clusters(wrong: int, seed: int) -> None:
    features, labels = blobs(spread=0.5)
    generator = torch.Generator().manual_seed(1)
    predicted = labels.clone()
    predicted[:wrong] = torch.randint(0, CLASSES, (wrong,), generator=generator)
    clusters = KMeans(CLASSES, n_init=10, random_state=7).fit_predict(features.numpy())
    expected = adjusted_mutual_info_score(predicted.numpy(), clusters)
    assert class_ami(sure_of(predicted), features, seed=seed) == pytest.approx(expected)
    assert (expected > 0.999) == (wrong == 0)


def test_class_ami_of_classes_that_have_nothing_to_do_with_the_features_is_near_zero() -> None:
    features, _ = blobs(spread=0.5)
    generator = torch.Generator().manual_seed(2)
    random = torch.randint(0, CLASSES, (100,), generator=generator)
    assert abs(class_ami(sure_of(random), features, seed=0)) < 0.1


def test_a_seed_gives_one_value() -> None:
    features, labels = blobs(spread=8.0)
    values = {class_ami(sure_of(labels), features, seed=3) for _ in range(3)}
    assert len(values) == 1


@pytest.mark.parametrize("spread", [0.0, 1.0])
def test_one_class_everywhere_scores_nothing(spread: float) -> None:
    """A collapsed network has one class and, where it is dead, one feature: no agreement."""
    features = spread * torch.randn(40, 3, generator=torch.Generator().manual_seed(0))
    assert class_ami(sure_of(torch.zeros(40, dtype=torch.int64)), features, seed=0) == 0


def test_equal_features_score_nothing() -> None:
    _, labels = blobs(spread=1.0)
    assert class_ami(sure_of(labels), torch.zeros(100, 3), seed=0) == pytest.approx(0, abs=1e-12)


def test_fewer_images_than_classes_score_nothing() -> None:
    assert class_ami(sure_of(torch.tensor([1])), torch.zeros(1, 3), seed=0) == 0
    assert class_ami(sure_of(torch.tensor([1, 2])), torch.rand(2, 3), seed=0) == 0


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_features_that_are_not_finite_are_refused(value: float) -> None:
    features, labels = blobs(spread=1.0)
    features[3, 1] = value
    with pytest.raises(ValueError, match="features must be finite"):
        class_ami(sure_of(labels), features, seed=0)


@pytest.mark.parametrize("shape", [(99, 3), (100,), (100, 3, 1)])
def test_features_of_another_shape_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"features must be \[N, D\] with N=100"):
        class_ami(sure_of(torch.arange(100) % CLASSES), torch.zeros(shape), seed=0)


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        (torch.tensor([[0.5, 0.6]]), "sum to 1"),
        (torch.tensor([[1.5, -0.5]]), "≥ 0"),
        (torch.tensor([[math.nan, 1.0]]), "sum to 1"),
        (torch.tensor([0.5, 0.5]), r"must be \[N, C\]"),
        (torch.zeros(0, 3), r"must be \[N, C\]"),
    ],
)
def test_rows_that_are_no_distribution_are_refused(broken: Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        information_maximisation(broken)
    with pytest.raises(ValueError, match=message):
        class_ami(broken, torch.zeros(len(broken), 2), seed=0)
