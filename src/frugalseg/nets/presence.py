"""Is the class in the image at all? A confidence from how similar what was segmented is to the references.

Shape letters: E episodes, N new classes of an episode, M = N + 1 classes with background as 0, X positions, D channels, P pairs.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from frugalseg.nets.prototypes import weighted_sum

UNCALIBRATED = (4.7, 2.1, -0.3, -2.6)  # of `confidence`: MobileNetV2's 14 leading blocks on photos, a start for other features


def prototype_similarity(query: Tensor, logits: Tensor, support: Tensor) -> Tensor:
    """Cosine of the mean feature of the segmented region and P_s, of background and object, (E, M); −1 for an empty region.

    Of a dozen measures on real photos (largest probability, margins, segmenting the references back), the object's cosine ranked
    images with and without the class best with ready-made features, and the background's, that is the scene, with trained ones.

    Shapes: query (E or 1, X, D), logits (E, M, X), support (E, M, D).
    """
    chosen = F.one_hot(logits.argmax(1), logits.shape[1]).mT.to(query)
    means = F.normalize(weighted_sum(chosen, query), dim=-1)
    return torch.where(chosen.sum(-1) > 0, (means * F.normalize(support, dim=-1)).sum(-1), -1.0)


def confidence(similarity: Tensor, shots: Tensor, calibration: Tensor) -> Tensor:
    """Confidence that each class is there, (E, N): σ(a·object + b·background + c·log2(shots) + d), 0 for an empty region.

    The weights are those of `fit_calibration`: the mean of more references is more similar to anything.
    Shapes: similarity (E, M), shots (E,), calibration (4,).
    """
    a, b, c, d = calibration
    scores = a * similarity[:, 1:] + b * similarity[:, :1] + c * shots.clamp(min=1).log2()[:, None] + d
    return torch.where(similarity[:, 1:] > -1, scores.sigmoid(), 0.0)


def fit_calibration(similarity: np.ndarray, shots: np.ndarray, present: np.ndarray, ridge: float = 1e-4) -> np.ndarray:
    """The four weights of `confidence`, by logistic regression (Newton's method) on pairs with and without the class.

    similarity: (P, 2) of background and object. shots: (P,). present: (P,) bool. ridge: weight of a small penalty on the squared
    weights, so that pairs that separate perfectly do not drive them to infinity.
    """
    segmented = similarity[:, 1] > -1
    inputs = np.stack([similarity[:, 1], similarity[:, 0], np.log2(shots), np.ones(len(shots))], 1)[segmented].astype(np.float64)
    weights, target = np.zeros(4), present[segmented].astype(np.float64)
    penalty = ridge * len(target) * np.array([1.0, 1.0, 1.0, 1e-6])
    for _ in range(50):
        probability = 1 / (1 + np.exp(-np.clip(inputs @ weights, -30, 30)))
        gradient = inputs.T @ (probability - target) + penalty * weights
        hessian = (inputs * (probability * (1 - probability))[:, None]).T @ inputs + np.diag(penalty + 1e-12)
        weights = weights - np.linalg.solve(hessian, gradient)
    return weights
