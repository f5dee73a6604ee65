"""Label-free scores against numpy, scikit-learn, brute force and closed forms."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.spatial.distance import cdist
from sklearn.cluster import KMeans
from sklearn.metrics import adjusted_mutual_info_score, v_measure_score
from torch import Tensor

from gam_ray.selection.estimates import importance_weights
from gam_ray.selection.evidence import Evidence, MixedPairs, Predictions
from gam_ray.selection.scores import known_scores, score_by_name
from gam_ray.selection.scores.base import Score, register_score
from gam_ray.selection.scores.source import dev_risk
from gam_ray.selection.scores.transfer import hopkins, uniformity

CLASSES = 5
logits = arrays(
    np.float64, st.tuples(st.integers(1, 8), st.integers(2, 6)), elements=st.floats(-9, 9)
)


def softmax(values: np.ndarray) -> np.ndarray:
    return np.exp(values) / np.exp(values).sum(1, keepdims=True)


def model(
    target: Tensor,
    features: Tensor | None = None,
    *,
    source: Tensor | None = None,
    labels: Tensor | None = None,
    seed: int = 0,
    mixed: MixedPairs | None = None,
) -> Evidence:
    """Evidence with these probabilities on the target; of the source, if not given, one row."""
    source = torch.eye(2)[:1] if source is None else source
    labels = torch.zeros(len(source), dtype=torch.int64) if labels is None else labels
    return Evidence(
        target=Predictions(target, features),
        source=Predictions(source, source),
        source_labels=labels,
        seed=seed,
        mixed=mixed,
    )


def value(name: str, evidence: Evidence) -> float:
    found = score_by_name(name)(evidence)
    assert found is not None
    return found


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


# Of the predictions alone.


@given(values=logits)
def test_predictions_alone_are_scored_as_numpy_does(values: np.ndarray) -> None:
    p = softmax(values)
    evidence, mean = model(torch.from_numpy(p)), p.mean(0)
    rows = (p * np.log(p)).sum(1).mean()
    correlation = p.T @ p
    expected = {
        "entropy": rows,
        "information_maximisation": rows - (mean * np.log(mean)).sum(),
        "bnm": np.linalg.svd(p, compute_uv=False).sum() / len(p),
        "corr_c": -np.trace(correlation) / np.sqrt((correlation**2).sum()),
    }
    for name, right in expected.items():
        # The singular values are roots of eigenvalues, which halves the digits of the small ones.
        assert value(name, evidence) == pytest.approx(right, abs=1e-7 if name == "bnm" else 1e-12)


@given(values=logits)
def test_neighbourhood_density_is_what_a_loop_finds(values: np.ndarray) -> None:
    p = softmax(values)
    unit = p / np.sqrt((p**2).sum(1, keepdims=True))
    entropies = []
    for row in range(len(p)):
        others = np.array([unit[row] @ unit[k] / 0.05 for k in range(len(p)) if k != row])
        near = np.exp(others - others.max(initial=0)) if len(others) else np.ones(1)
        near = near / near.sum()
        entropies.append(-(near * np.log(near)).sum())
    found = value("snd", model(torch.from_numpy(p)))
    assert found == pytest.approx(np.mean(entropies), abs=1e-9)
    assert found <= math.log(max(1, len(p) - 1)) + 1e-9


@pytest.mark.parametrize("classes", [2, 10])
def test_what_is_balanced_uniform_or_collapsed_has_closed_forms(classes: int) -> None:
    balanced = model(torch.eye(classes).repeat(3, 1))
    uniform = model(torch.full((3 * classes, classes), 1 / classes))
    collapsed = model(torch.eye(classes)[[0] * (3 * classes)])
    rows = 3 * classes
    expected = {
        "entropy": (0, -math.log(classes), 0),
        "information_maximisation": (math.log(classes), 0, 0),
        "bnm": (math.sqrt(classes / rows), 1 / math.sqrt(rows * classes), 1 / math.sqrt(rows)),
        "corr_c": (-math.sqrt(classes), -1, -1),
        # Of a balanced split each row has two others like it, and e^-20 of the rest.
        "snd": (math.log(2), math.log(rows - 1), math.log(rows - 1)),
    }
    for name, right in expected.items():
        found = [value(name, each) for each in (balanced, uniform, collapsed)]
        assert found == pytest.approx(right, abs=1e-5), name


# Of clusters.


@pytest.mark.parametrize("wrong", [0, 20, 60])
@pytest.mark.parametrize("seed", [0, 2**63 - 1])
def test_agreement_is_that_with_independent_clusters(wrong: int, seed: int) -> None:
    features, labels = blobs(spread=0.5)
    generator = torch.Generator().manual_seed(1)
    predicted = labels.clone()
    predicted[:wrong] = torch.randint(0, CLASSES, (wrong,), generator=generator)
    clusters = KMeans(CLASSES, n_init=10, random_state=7).fit_predict(features.numpy())
    evidence = model(sure_of(predicted), features, seed=seed)
    for name, measure in {
        "class_ami": adjusted_mutual_info_score,
        "v_measure": v_measure_score,
    }.items():
        expected = measure(predicted.numpy(), clusters)
        assert value(name, evidence) == pytest.approx(expected)
        assert (expected > 0.999) == (wrong == 0)


def test_classes_that_have_nothing_to_do_with_the_features_score_near_zero() -> None:
    features, _ = blobs(spread=0.5)
    generator = torch.Generator().manual_seed(2)
    random = sure_of(torch.randint(0, CLASSES, (100,), generator=generator))
    assert abs(value("class_ami", model(random, features))) < 0.1
    # Unadjusted, chance looks like agreement.
    assert 0.03 < value("v_measure", model(random, features)) < 0.2


@pytest.mark.parametrize("name", ["class_ami", "v_measure"])
def test_what_has_no_clusters_scores_nothing(name: str) -> None:
    features, labels = blobs(spread=1.0)
    for spread in (0.0, 1.0):  # A collapsed network has one class and, if dead, one feature.
        collapsed = sure_of(torch.zeros(100, dtype=torch.int64))
        assert value(name, model(collapsed, spread * features)) == 0
    assert value(name, model(sure_of(labels), torch.zeros(100, 3))) == pytest.approx(0, abs=1e-12)
    assert value(name, model(sure_of(torch.tensor([1, 2])), torch.rand(2, 3))) == 0


# Of the source.


def test_source_accuracy_is_the_share_of_hits() -> None:
    source, labels = sure_of(torch.tensor([0, 1, 2, 3])), torch.tensor([0, 1, 2, 4])
    evidence = model(torch.eye(2), source=source, labels=labels)
    assert value("source_accuracy", evidence) == 0.75


def gaussian_sides(count: int) -> tuple[Tensor, Tensor]:
    """Source features of N(0, 1), and target features of N(1, 1), [count, 1] each."""
    draw = torch.Generator().manual_seed(4)
    return torch.randn(count, 1, generator=draw), 1 + torch.randn(count, 1, generator=draw)


def test_importance_weights_are_the_ratio_of_two_gaussians() -> None:
    source, target = gaussian_sides(4000)
    ratio = torch.exp(source - 0.5).squeeze(1).numpy()
    weights = importance_weights(source, target)
    assert weights == pytest.approx(ratio, rel=0.25)
    assert weights.mean() == pytest.approx(1, abs=0.05)
    fewer = importance_weights(source, target[:1000])
    assert fewer.mean() == pytest.approx(1, abs=0.08)


def test_importance_weights_of_an_outlier_are_finite() -> None:
    """A network on its way to diverging has features that its classifier of domains never saw."""
    source, target = gaussian_sides(200)
    source[0] = 1e9
    assert np.isfinite(importance_weights(source, target)).all()
    assert np.isfinite(importance_weights(-source, target)).all()


def test_weighted_risks_find_the_risk_on_the_target_where_the_features_moved_alone() -> None:
    """A classifier that is sure of class 0, of labels that are likelier 1 further right."""
    source, target = gaussian_sides(1000)
    draw = torch.Generator().manual_seed(9)
    chance = [torch.sigmoid(2 * side.squeeze(1)) for side in (source, target)]
    labels = [(torch.rand(1000, generator=draw) < each).long() for each in chance]
    probabilities = torch.tensor([[0.8, 0.2]]).expand(1000, 2)
    losses = -torch.tensor([0.8, 0.2]).log()
    on_source, on_target = (float(losses[each].mean()) for each in labels)
    assert on_target > on_source + 0.3
    evidence = Evidence(
        target=Predictions(probabilities, target),
        source=Predictions(probabilities, source),
        source_labels=labels[0],
        seed=0,
    )
    assert -value("iwcv", evidence) == pytest.approx(on_target, abs=0.1)
    assert -value("dev", evidence) == pytest.approx(on_target, abs=0.1)


def test_the_control_variate_is_a_regression_on_the_weights() -> None:
    numbers = np.random.default_rng(3)
    weights, losses = numbers.gamma(2.0, 0.5, 500), numbers.random(500)
    slope, intercept = np.polyfit(weights, weights * losses, 1)
    # What the weighted loss would be on average if the weights had their mean of 1.
    assert dev_risk(weights, losses) == pytest.approx(intercept + slope)
    assert dev_risk(np.full(500, 1.5), losses) == pytest.approx(1.5 * losses.mean())


# Of mixed images.


def mixed(image: list[int], partner: list[int], mixture: list[int]) -> MixedPairs:
    return MixedPairs(*(sure_of(torch.tensor(each)) for each in (image, partner, mixture)))


def test_mixed_pairs_of_one_class_and_of_two_count_alike() -> None:
    # Of one class: 2 of 4 right. Of two: 1 of 2.
    pairs = mixed([0, 0, 1, 1, 2, 3], [0, 0, 1, 1, 3, 4], [0, 4, 1, 4, 2, 4])
    assert value("mixval", model(torch.eye(2), mixed=pairs)) == pytest.approx((0.5 + 0.5) / 2)
    pairs = mixed([0, 0, 1, 1, 2, 3], [0, 0, 1, 1, 3, 4], [0, 0, 1, 4, 3, 4])
    assert value("mixval", model(torch.eye(2), mixed=pairs)) == pytest.approx((0.75 + 0) / 2)


def test_a_collapsed_network_is_right_of_every_pair_of_one_class_and_has_no_other() -> None:
    pairs = mixed([1] * 6, [1] * 6, [1] * 6)
    assert value("mixval", model(torch.eye(2), mixed=pairs)) == 0.5


# The Transfer Score.


def simplex(classes: int) -> Tensor:
    return torch.eye(classes, dtype=torch.float64) - 1 / classes


def test_uniformity_is_zero_of_a_simplex_and_the_angles_say_how_far_from_it() -> None:
    # arccos is steep at the ends, hence 1e-12 for two classes, opposite each other.
    assert all(uniformity(3.7 * simplex(classes)) < 1e-12 for classes in (2, 3, 10))
    right_angles = uniformity(torch.eye(4, dtype=torch.float64))
    assert right_angles == pytest.approx((math.acos(-1 / 3) - math.pi / 2) ** 2)
    same = uniformity(torch.ones(3, 5, dtype=torch.float64))
    assert same == pytest.approx(math.acos(-1 / 2) ** 2, abs=1e-6)


def test_hopkins_tells_clusters_from_uniform_points() -> None:
    draw = torch.Generator().manual_seed(0)
    uniform = torch.rand(1000, 2, generator=draw)
    assert hopkins(uniform, seed=1) == pytest.approx(0.5, abs=0.03)
    clustered, _ = blobs(spread=0.01)
    assert hopkins(clustered, seed=1) > 0.98


def test_hopkins_is_what_brute_force_finds() -> None:
    features = torch.randn(30, 3, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    points = torch.rand(30, 3, generator=torch.Generator().manual_seed(8), dtype=torch.float64)
    low, high = features.numpy().min(0), features.numpy().max(0)
    box = low + points.numpy() * (high - low)
    u = cdist(box, features.numpy()).min(1).sum()
    w = sum(sorted(row)[1] for row in cdist(features.numpy(), features.numpy()))
    assert hopkins(features, seed=8) == pytest.approx(u / (u + w))


def test_the_transfer_score_adds_its_three_parts() -> None:
    features, labels = blobs(spread=0.5)
    probabilities = sure_of(labels)
    classifier = torch.randn(CLASSES, 3, generator=torch.Generator().manual_seed(1))
    evidence = Evidence(
        target=Predictions(probabilities, features),
        source=Predictions(probabilities[:1], features[:1]),
        source_labels=labels[:1],
        seed=5,
        classifier=classifier,
    )
    parts = (
        -uniformity(classifier.double()),
        hopkins(features.double(), seed=5),
        value("information_maximisation", evidence) / math.log(CLASSES),
    )
    assert value("transfer_score", evidence) == pytest.approx(sum(parts))


# Evidence, and the table of scores.


def test_costly_scores_look_at_some_rows_evenly_spaced_and_cheap_ones_at_all() -> None:
    many = sure_of(torch.arange(2500) % CLASSES)
    many[::2] = 1 / CLASSES
    features = torch.arange(2500.0)[:, None].expand(-1, 2)
    evidence = model(many, features)
    few = evidence.few
    assert few.features is not None
    assert few.features[[0, 1, -1], 0].tolist() == [0, 2, 2499]
    assert len(few) == 1000
    assert value("entropy", evidence) == pytest.approx(value("entropy", model(many)))
    source = model(torch.eye(2), source=many, labels=torch.arange(2500) % CLASSES)
    some, labels = source.few_source
    assert torch.equal(labels, source.source_labels[torch.linspace(0, 2499, 1000).long()])
    assert len(some) == 1000


@pytest.mark.parametrize("shape", [(99, 3), (100,), (100, 3, 1)])
def test_features_of_another_shape_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"features must be \[N, D\] with N=100"):
        Predictions(sure_of(torch.arange(100) % CLASSES), torch.zeros(shape))


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
        Predictions(broken)


def test_labels_of_another_number_and_missing_features_are_refused() -> None:
    with pytest.raises(ValueError, match=r"source_labels must be \[1\], .* but got \(2,\)"):
        model(torch.eye(2), labels=torch.zeros(2, dtype=torch.int64))
    with pytest.raises(ValueError, match="needs features"):
        score_by_name("class_ami")(model(sure_of(torch.arange(10) % CLASSES)))


def test_a_name_that_is_not_known_is_told_its_neighbour() -> None:
    with pytest.raises(ValueError, match=r"no score 'class_aim'; did you mean 'class_ami'\?"):
        score_by_name("class_aim")
    with pytest.raises(ValueError, match="no score '%'; known are bnm, class_ami, corr_c"):
        score_by_name("%")


def test_a_name_is_taken_once() -> None:
    before = known_scores()

    class Another(Score):
        name, lowest, highest = "entropy", 0.0, 1.0

        def __call__(self, evidence: Evidence) -> float:
            return float(len(evidence.target))

    with pytest.raises(ValueError, match="'entropy' is taken"):
        register_score(Another)
    assert {k: type(v) for k, v in known_scores().items()} == {
        k: type(v) for k, v in before.items()
    }
