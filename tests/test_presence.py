"""The confidence that a class is there: against scikit-learn, and at the edges."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression

from frugalseg.nets.presence import confidence, fit_calibration, prototype_similarity


def test_confidence_is_fitted_as_by_scikit_learn() -> None:
    random = np.random.default_rng(0)
    present, shots = random.random(400) < 0.5, random.choice([1.0, 2.0, 4.0], 400)
    means = np.stack([0.4 + 0.1 * present, 0.3 + 0.2 * present + 0.05 * np.log2(shots)], 1)
    similarity = random.normal(means, 0.15)  # of background and object
    weights = fit_calibration(similarity, shots, present, ridge=1e-9)
    inputs = np.stack([similarity[:, 1], similarity[:, 0], np.log2(shots)], 1)
    fitted = LogisticRegression(C=1e9, tol=1e-9).fit(inputs, present)
    assert weights == pytest.approx([*fitted.coef_[0], fitted.intercept_[0]], rel=1e-3)
    probability = confidence(torch.from_numpy(similarity), torch.from_numpy(shots), torch.from_numpy(weights))
    assert probability[:, 0].numpy() == pytest.approx(fitted.predict_proba(inputs)[:, 1], abs=1e-4)


def test_a_class_without_a_pixel_is_not_there() -> None:
    query, support = torch.randn(1, 30, 16), torch.randn(1, 2, 16)
    nothing = torch.stack([torch.ones(30), torch.zeros(30)])[None]
    similarity = prototype_similarity(query, nothing, support)
    assert confidence(similarity, torch.ones(1), torch.tensor([5.0, 0.0, 0.0, 9.0])).tolist() == [[0.0]]


def test_pairs_that_separate_perfectly_do_not_diverge() -> None:
    similarity = np.array([[0.5, 0.1], [0.6, 0.2], [0.6, 0.8], [0.5, 0.9]])
    weights = fit_calibration(similarity, np.ones(4), np.array([False, False, True, True]))
    assert np.isfinite(weights).all()
    assert weights[0] > 0
