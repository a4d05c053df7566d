"""Intervals over images: vectorised draws against loops that score the drawn images anew, and how often they hold the truth."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import average_precision_score

from frugalseg.metrics import Difference, SemanticScores, TagScores, bootstrap, paired


def run(right: float, images: int = 25, truth_seed: int = 0, seed: int = 1) -> SemanticScores:
    """A run that gets the share `right` of the pixels right on images whose classes and difficulty vary."""
    pictures, noise = np.random.default_rng(truth_seed), np.random.default_rng(seed)
    scores = SemanticScores(["cat", "dog"], "toy", "val")
    for index in range(images):
        truth = pictures.choice(pictures.permutation(3)[:2], size=(6, 6))
        good = noise.random((6, 6)) < right * pictures.random()
        scores.update(f"{index:03}", np.where(good, truth, noise.integers(0, 3, (6, 6))), truth)
    return scores


def test_draws_are_samples_with_replacement():
    rows = np.concatenate(list(bootstrap.draws(7, 3000, seed=0)))
    assert rows.shape == (3000, 7)
    assert (rows.sum(1) == 7).all()
    np.testing.assert_allclose(rows.mean(0), 1, atol=0.06)
    np.testing.assert_allclose((rows == 0).mean(), (6 / 7) ** 7, atol=0.01)


def test_draws_do_not_depend_on_the_chunk(monkeypatch):
    whole = np.concatenate(list(bootstrap.draws(5, 40, seed=3)))
    monkeypatch.setattr(bootstrap, "CELLS", 5 * 7)
    chunks = list(bootstrap.draws(5, 40, seed=3))
    assert len(chunks) == 6
    np.testing.assert_array_equal(np.concatenate(chunks), whole)


def test_resampled_miou_equals_scoring_the_drawn_images_anew():
    scores = run(0.7)
    rows = np.stack([scores.rows[name] for name in sorted(scores.rows)])
    expected = []
    for drawn in np.random.default_rng(4).integers(25, size=(50, 25)):
        intersection, predicted, truth = sum(rows[i] for i in drawn)
        ious = [i / (p + t - i) for i, p, t in zip(intersection, predicted, truth, strict=True) if p + t - i]
        expected.append(sum(ious) / len(ious))
    np.testing.assert_allclose(scores.resampled(50, seed=4), expected, atol=1e-12)
    interval = scores.interval(50, seed=4, level=0.9)
    assert (interval.low, interval.high) == pytest.approx(tuple(np.quantile(expected, [0.05, 0.95])))


def test_resampled_map_equals_scikit_learn_on_the_drawn_images():
    rng = np.random.default_rng(0)
    predictions, tags = rng.integers(0, 8, (20, 2)) / 7, (rng.random((20, 2)) < 0.4).astype(float)
    scores = TagScores(["cat", "dog"])
    for index in range(20):
        scores.update(f"{index:02}", predictions[index], tags[index])
    expected = []
    for drawn in np.random.default_rng(5).integers(20, size=(30, 20)):
        expected.append(np.mean([average_precision_score(tags[drawn, c], predictions[drawn, c]) for c in range(2)]))
    np.testing.assert_allclose(scores.resampled(30, seed=5), expected, atol=1e-12)


def test_sums_stay_exact_for_images_of_a_thousand_megapixels():
    scores, huge = SemanticScores(["dog"]), 2**30
    for name, right in (("a", huge), ("b", huge - 1)):
        scores.rows[name] = np.array([[0, right], [huge - right, right], [0, huge]])
    assert scores.per_class["dog"] == (2 * huge - 1) / (2 * huge)


def test_interval_is_a_function_of_seed_and_images_alone():
    scores, other = run(0.7), SemanticScores(["cat", "dog"], "toy", "val")
    for name in reversed(scores.names):
        other.rows[name] = scores.rows[name]
    assert scores.interval(200) == other.interval(200)
    assert scores.interval(200) != scores.interval(200, seed=1)
    assert scores.interval(200).low < scores.miou < scores.interval(200).high


def test_one_image_has_no_interval():
    interval = run(0.7, images=1).interval()
    assert np.isnan(interval.low)
    assert str(interval) == "–"


def test_level_outside_zero_and_one_is_an_error():
    with pytest.raises(ValueError, match="level: got 95"):
        run(0.7).interval(level=95)


def test_interval_holds_the_populations_score_about_as_often_as_it_says():
    population = run(0.7, images=2000, truth_seed=9)
    rows, rng, held = population.stacked(), np.random.default_rng(2), 0
    for _ in range(200):
        scores = SemanticScores(["cat", "dog"])
        scores.rows = {str(i): rows[index] for i, index in enumerate(rng.integers(0, 2000, 60))}
        interval = scores.interval(300, level=0.8)
        held += interval.low <= population.miou <= interval.high
    assert 0.72 <= held / 200 <= 0.87  # 0.8 ± 2.5 standard errors


def test_paired_difference_equals_a_loop_over_the_same_draws():
    a, b = run(0.8, seed=1), run(0.7, seed=2)
    both = [np.stack([scores.rows[name] for name in sorted(scores.rows)]) for scores in (a, b)]
    expected = []
    for drawn in np.random.default_rng(6).integers(25, size=(100, 25)):
        mious = []
        for rows in both:
            intersection, predicted, truth = rows[drawn].sum(0)
            mious.append(np.mean(intersection / (predicted + truth - intersection)))
        expected.append(mious[0] - mious[1])
    difference = paired(a, b, samples=100, seed=6)
    assert difference.mean == pytest.approx(a.miou - b.miou)
    assert (difference.low, difference.high) == pytest.approx(tuple(np.quantile(expected, [0.025, 0.975])))


def test_verdicts():
    good, bad = run(1.0), run(0.2)
    assert paired(good, bad).decided == "better"
    assert paired(bad, good).decided == "worse"
    assert paired(good, good) == Difference(0, 0, 0)
    assert paired(good, good).decided == "undecided"
    assert Difference(0.1, 0.0, 0.2).decided == "undecided"
    assert str(Difference(0.0123, 0.004, 0.021)) == "+1.23 [+0.40, +2.10] better"


def test_one_image_decides_nothing():
    assert paired(run(1.0, images=1), run(0.2, images=1)).decided == "undecided"


def test_pairing_is_narrower_than_two_intervals_apart():
    a, b = run(0.8, seed=1), run(0.8, seed=2)
    difference, apart = paired(a, b), bootstrap.interval(a.resampled(2000, 0) - b.resampled(2000, 1))
    assert difference.high - difference.low < 0.8 * (apart.high - apart.low)


def test_runs_on_different_images_or_labels_cannot_be_compared():
    a = run(0.8)
    with pytest.raises(ValueError, match=r"1 only in the second \(025\)"):
        paired(a, run(0.8, images=26))
    with pytest.raises(ValueError, match="different ground truth"):
        paired(a, run(0.8, truth_seed=5))
    with pytest.raises(ValueError, match="different classes"):
        paired(a, SemanticScores(["dog"]))
