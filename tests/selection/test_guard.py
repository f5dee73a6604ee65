"""The collapse guard: its figures against scikit-learn and closed forms, and its rules."""

import math

import numpy as np
import pytest
import torch
from sklearn.metrics import cohen_kappa_score
from torch import Tensor

from gam_ray.selection.collapse import Unadapted, class_shift, cohen_kappa, guard_figures
from gam_ray.selection.estimates import effective_rank
from gam_ray.selection.evidence import Evidence, Predictions
from gam_ray.selection.guard import AGREEMENT, CLASS_SHIFT, FEATURE_RANK, guard_causes

CLASSES = 4


def said(classes: Tensor, features: Tensor | None = None) -> Predictions:
    """Predictions that say these classes [N] for sure."""
    return Predictions(torch.eye(CLASSES)[classes], features)


def evidence(predicted: Tensor, features: Tensor | None = None) -> Evidence:
    """Of a model that says so, where the source's labels are balanced."""
    labels = torch.arange(20) % CLASSES
    return Evidence(said(predicted, features), said(labels), labels, seed=0)


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(
    ("predicted", "expected"),
    [([0, 1, 2, 3], 0.0), ([0, 0, 1, 1], 0.5), ([2, 2, 2, 2], 0.75), ([0, 1, 2, 2], 0.25)],
)
def test_class_shift_is_the_share_of_rows_that_would_have_to_change(
    predicted: list[int], expected: float
) -> None:
    assert class_shift(evidence(torch.tensor(predicted * 6))) == pytest.approx(expected)


@pytest.mark.parametrize("alike", [0, 30, 100])
def test_agreement_is_scikit_learns_kappa(alike: int) -> None:
    numbers = torch.Generator().manual_seed(1)
    first = torch.randint(0, CLASSES, (100,), generator=numbers)
    second = torch.randint(0, CLASSES, (100,), generator=numbers)
    second[:alike] = first[:alike]
    expected = cohen_kappa_score(first.numpy(), second.numpy())
    assert cohen_kappa(first, second) == pytest.approx(expected)


def test_two_collapsed_networks_do_not_agree() -> None:
    collapsed = torch.full((9,), 2)
    assert cohen_kappa(collapsed, collapsed) == 0
    assert cohen_kappa(collapsed, torch.arange(9) % CLASSES) == 0


def test_effective_rank_counts_directions() -> None:
    three = drawn(500, 3) @ torch.linalg.qr(drawn(8, 3, seed=1))[0].T
    assert effective_rank(three) == pytest.approx(3, abs=0.02)
    assert effective_rank(torch.ones(10, 5)) == 1
    assert effective_rank(drawn(1, 5)) == 1
    values = np.linalg.svd((three - three.mean(0)).numpy(), compute_uv=False)
    shares = values[:3] / values[:3].sum()
    # Roots of eigenvalues: what should be 0 is 1e-8 of the rest.
    assert effective_rank(three) == pytest.approx(math.exp(-(shares * np.log(shares)).sum()), 1e-5)


def test_the_source_network_itself_is_in_bounds_and_a_collapsed_one_in_none() -> None:
    classes, features = torch.arange(40) % CLASSES, drawn(40, 6)
    before = Unadapted.of(said(classes, features))
    same = guard_figures(evidence(classes, features), before)
    assert same == {
        CLASS_SHIFT: pytest.approx(0),
        AGREEMENT: pytest.approx(1),
        FEATURE_RANK: pytest.approx(1),
    }
    assert guard_causes(same, label_shift=0.65) == ()
    collapsed = evidence(torch.zeros(40, dtype=torch.int64), torch.ones(40, 6))
    causes = guard_causes(guard_figures(collapsed, before), label_shift=0.65)
    assert [cause.split(" ")[0] for cause in causes] == ["predicted", "agreement", "features"]
    assert "0.75 away from the source's labels, and 0.65 is allowed" in causes[0]


@pytest.mark.parametrize(
    ("figure", "within", "beyond"),
    [(CLASS_SHIFT, 0.5, 0.51), (AGREEMENT, 0.1, 0.09), (FEATURE_RANK, 0.25, 0.24)],
)
def test_each_figure_has_its_own_bound(figure: str, within: float, beyond: float) -> None:
    fine = {CLASS_SHIFT: 0.0, AGREEMENT: 1.0, FEATURE_RANK: 1.0}
    assert guard_causes({**fine, figure: within}, label_shift=0.5) == ()
    assert len(guard_causes({**fine, figure: beyond}, label_shift=0.5)) == 1


def test_half_of_the_digits_missing_is_a_shift_that_is_allowed_by_default() -> None:
    """As in Table 2 of the paper: a model that is right of `usps-odd` must not be guarded."""
    assert class_shift(evidence(torch.tensor([1, 3] * 20))) == pytest.approx(0.5)
    from gam_ray.config.study import ObjectiveConfig

    assert 0.5 + 0.1 < ObjectiveConfig().label_shift < 0.7


def test_reports_without_figures_are_not_guarded() -> None:
    assert guard_causes({"score/class_ami": 0.1}, label_shift=0.0) == ()
