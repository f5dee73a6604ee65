"""Scores against what pytorch-adapt and skada said of the same predictions."""

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from gam_ray.selection.evidence import Evidence, MixedPairs, Predictions
from gam_ray.selection.scores import score_by_name
from gam_ray.selection.scores.source import dev_risk

PEERS = Path(__file__).parents[2] / "benchmarks" / "peers"
sys.path.insert(0, str(PEERS))

import record_scores as recorder  # noqa: E402

RECORD: dict[str, Any] = json.loads((PEERS / "scores.json").read_text())


def evidence(probabilities: np.ndarray, mixed: MixedPairs | None = None) -> Evidence:
    one = Predictions(torch.eye(2)[:1])
    labels = torch.zeros(1, dtype=torch.int64)
    return Evidence(Predictions(torch.from_numpy(probabilities)), one, labels, seed=0, mixed=mixed)


@pytest.mark.parametrize("kind", recorder.KINDS)
@pytest.mark.parametrize("name", ["entropy", "information_maximisation", "bnm", "snd"])
def test_predictions_are_scored_as_pytorch_adapt_does(name: str, kind: str) -> None:
    probabilities = recorder.softmax(recorder.logits(kind))
    expected = RECORD["pytorch-adapt"][kind][name]
    # Ours takes roots of eigenvalues for singular values, which halves the digits of small ones.
    digits = 1e-7 if name == "bnm" else 1e-12
    assert score_by_name(name)(evidence(probabilities)) == pytest.approx(expected, abs=digits)


def test_the_weighted_risk_is_that_of_pytorch_adapt() -> None:
    found = dev_risk(*recorder.weights_and_losses())
    assert found == pytest.approx(RECORD["pytorch-adapt"]["dev risk"], rel=1e-12)


def test_predictions_on_mixed_pairs_are_scored_as_skada_does() -> None:
    rows, head = recorder.images_and_head()
    partner = np.random.RandomState(recorder.MIXVAL_SEED).permutation(len(rows))
    mixture = 0.55 * rows + 0.45 * rows[partner]
    parts = (torch.from_numpy(recorder.softmax(x @ head)) for x in (rows, rows[partner], mixture))
    own = recorder.softmax(rows @ head)
    found = evidence(own, MixedPairs(*parts))
    assert score_by_name("mixval")(found) == pytest.approx(RECORD["skada"]["mixval"])
    # It divides by the number of classes, too, and keeps probabilities off 0.
    entropy = RECORD["skada"]["entropy"] * recorder.CLASSES
    assert score_by_name("entropy")(found) == pytest.approx(entropy, rel=1e-5)
