"""What every label-free score must do, whatever it looks at. A new score is in here at once."""

import math
from collections.abc import Callable
from typing import get_args

import pytest
import torch
from torch import Tensor

from gam_ray.config.study import ScoreName
from gam_ray.selection.evidence import Evidence, MixedPairs, Predictions
from gam_ray.selection.oracle import read_oracle
from gam_ray.selection.scores import Score, known_scores

CLASSES, WIDTH = 5, 8
SCORES = known_scores()

Build = Callable[[int], Evidence]


def predictions(logits: Tensor, features: Tensor | None = None) -> Predictions:
    if features is None:
        features = torch.randn(len(logits), WIDTH, generator=torch.Generator().manual_seed(5))
    return Predictions(logits.softmax(1), features)


def evidence(target: Tensor, features: Tensor | None = None) -> Evidence:
    """Of a model with these logits [N, C] on the target."""
    draw = torch.Generator().manual_seed(6)
    source = predictions(torch.randn(40, CLASSES, generator=draw))
    own = target.softmax(1)
    mixed = 0.55 * own + 0.45 * own.roll(1, 0)
    return Evidence(
        target=predictions(target, features),
        source=source,
        source_labels=torch.randint(0, CLASSES, (40,), generator=draw),
        seed=3,
        mixed=MixedPairs(own, own.roll(1, 0), mixed),
        classifier=torch.randn(CLASSES, WIDTH, generator=draw),
    )


def random(rows: int = 60) -> Evidence:
    return evidence(3 * torch.randn(rows, CLASSES, generator=torch.Generator().manual_seed(7)))


def one_class(rows: int = 60) -> Evidence:
    """A network that collapsed: sure of one class, and of one feature."""
    logits = torch.zeros(rows, CLASSES)
    logits[:, 2] = 200.0
    return evidence(logits, torch.ones(rows, WIDTH))


def uniform(rows: int = 60) -> Evidence:
    return evidence(torch.zeros(rows, CLASSES))


def never_two(rows: int = 60) -> Evidence:
    logits = 3 * torch.randn(rows, CLASSES, generator=torch.Generator().manual_seed(8))
    logits[:, 2] = -math.inf
    return evidence(logits)


def exact(rows: int = 60) -> Evidence:
    """Probabilities of exactly 0 and 1."""
    return evidence(torch.where(torch.eye(CLASSES)[torch.arange(rows) % CLASSES] > 0, 0, -math.inf))


WEIRD = [random, one_class, uniform, never_two, exact]


@pytest.fixture(params=SCORES)
def score(request: pytest.FixtureRequest) -> Score:
    return SCORES[request.param]


@pytest.mark.parametrize("rows", [1, 2, 3, 60])
@pytest.mark.parametrize("build", WEIRD)
def test_it_is_finite_and_in_its_range(score: Score, build: Build, rows: int) -> None:
    value = score(build(rows))
    assert type(value) is float
    assert math.isfinite(value)
    assert score.lowest - 1e-9 <= value <= score.highest + 1e-9


def test_it_is_the_same_again_and_changes_nothing(score: Score) -> None:
    before, model = random(), random()
    assert score(model) == score(model) == score(random())
    assert torch.equal(model.target.probabilities, before.target.probabilities)
    assert torch.equal(model.source.probabilities, before.source.probabilities)


@pytest.mark.parametrize("build", [random, never_two, exact])
def test_it_takes_half_precision_for_what_it_is(score: Score, build: Build) -> None:
    """Evidence from a network in bf16 or fp16 is weighed in float64 all the same."""
    whole = build(60)
    rounded = [whole.target.probabilities.half().float(), whole.source.probabilities.half().float()]
    half = [each.half() for each in rounded]
    found = []
    for target, source in (rounded, half):
        found.append(
            score(
                Evidence(
                    target=Predictions(target, whole.target.features),
                    source=Predictions(source, whole.source.features),
                    source_labels=whole.source_labels,
                    seed=3,
                    mixed=whole.mixed,
                    classifier=whole.classifier,
                )
            )
        )
    assert found[0] == pytest.approx(found[1], rel=1e-6, abs=1e-9)


def test_it_says_where_it_is_from_and_which_way_it_counts(score: Score) -> None:
    text = " ".join((type(score).__doc__ or "").split())
    assert "In [" in text or "In (" in text
    assert any(str(year) in text for year in range(2000, 2030)) or score.name == "source_accuracy"
    turned = "lower is better" in text
    assert turned == (score.name in {"corr_c", "iwcv", "dev"})


def test_without_what_it_looks_at_it_is_absent_and_not_wrong(score: Score) -> None:
    full = random()
    bare = Evidence(full.target, full.source, full.source_labels, seed=3)
    value = score(bare)
    assert value == score(full) or value is None
    assert (value is None) == (score.name in {"mixval", "transfer_score"})


def test_a_study_can_choose_by_each_of_them_and_by_no_other() -> None:
    assert sorted(get_args(ScoreName)) == sorted(["ensv", "confident_ensv", "oracle", *SCORES])


def test_predictions_that_are_not_finite_are_refused() -> None:
    broken = torch.full((4, CLASSES), math.nan)
    with pytest.raises(ValueError, match="must be ≥ 0 and sum to 1"):
        Predictions(broken, torch.zeros(4, WIDTH))
    with pytest.raises(ValueError, match="the network has diverged"):
        Predictions(torch.full((4, CLASSES), 1 / CLASSES), torch.full((4, WIDTH), math.inf))


def test_no_score_takes_an_oracle_reading(score: Score) -> None:
    reading = read_oracle({"test": {"": 0.9}})
    with pytest.raises((TypeError, AttributeError)):
        score(reading)  # type: ignore[arg-type]
