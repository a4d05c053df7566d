"""Schedules against values done by hand and torch's own schedulers."""

from __future__ import annotations

import warnings

import pytest
import torch

from frugalseg.nets import schedule


def torch_rates(scheduler, steps: int, **options) -> list[float]:
    """The learning rates torch's stateful scheduler goes through, from 0.5."""
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.5)
    stateful, rates = scheduler(optimizer, **options), []
    for _ in range(steps):
        rates.append(optimizer.param_groups[0]["lr"])
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch asks for optimizer.step() first
            stateful.step()
    return rates


def test_hand_values():
    assert schedule.constant(7, 0.3) == 0.3
    assert [schedule.warmup(step, 4, start=0.2) for step in (0, 2, 4, 9)] == pytest.approx([0.2, 0.6, 1, 1])
    assert [schedule.step_decay(step, 1.0, (6, 10)) for step in (0, 5, 6, 9, 10, 99)] == pytest.approx(
        [1, 1, 0.1, 0.1, 0.01, 0.01]
    )
    assert [schedule.poly(step, 100, 2.0, power=2, end=1.0) for step in (0, 50, 100, 200)] == pytest.approx([2, 1.25, 1, 1])
    assert [schedule.cosine(step, 6, 0.99, 1.0) for step in (0, 2, 3, 6, 7)] == pytest.approx([0.99, 0.9925, 0.995, 1, 1])


def test_a_rate_rises_and_falls_tenfold_after_shares_of_the_training():
    rates = [schedule.warmup_step_decay(step, 15, (0.5, 0.8), rise=4) for step in range(15)]
    assert rates == pytest.approx([0.25, 0.5, 0.75, 1, 1, 1, 1, 1, 0.1, 0.1, 0.1, 0.1, 0.01, 0.01, 0.01])
    assert [schedule.warmup_step_decay(step, 3, ()) for step in range(3)] == [1, 1, 1]


def test_a_rate_rises_and_falls_to_zero_on_a_cosine():
    rates = [schedule.warmup_cosine(step, 6, 2) for step in range(7)]
    assert rates == pytest.approx([0.5, 1, 1, (2 + 2**0.5) / 4, 0.5, (2 - 2**0.5) / 4, 0])


def test_r2o_region_counts_are_the_papers():
    counts = [schedule.quarter_cosine(step, 300, 128, 4, hold=40) for step in (0, 39, 40, 100, 200, 300, 301)]
    assert counts == [128, 128, 128, 119, 74, 4, 4]


def test_region_counts_only_fall():
    counts = [schedule.quarter_cosine(step, 300, 128, 4, hold=40) for step in range(300)]
    assert counts == sorted(counts, reverse=True)


@pytest.mark.parametrize(
    ("ours", "theirs", "options"),
    [
        (
            lambda t: schedule.step_decay(t, 0.5, (3, 7), 0.2),
            torch.optim.lr_scheduler.MultiStepLR,
            {"milestones": [3, 7], "gamma": 0.2},
        ),
        (lambda t: schedule.poly(t, 10, 0.5), torch.optim.lr_scheduler.PolynomialLR, {"total_iters": 10, "power": 0.9}),
        (lambda t: schedule.cosine(t, 12, 0.5, 0.01), torch.optim.lr_scheduler.CosineAnnealingLR, {"T_max": 12, "eta_min": 0.01}),
        (lambda t: 0.5 * schedule.warmup(t, 4, 0.1), torch.optim.lr_scheduler.LinearLR, {"start_factor": 0.1, "total_iters": 4}),
    ],
    ids=["step", "poly", "cosine", "warmup"],
)
def test_equals_torchs_scheduler(ours, theirs, options):
    assert [ours(step) for step in range(12)] == pytest.approx(torch_rates(theirs, 12, **options))


def test_training_of_no_steps_is_at_its_end():
    assert schedule.warmup(0, 0) == 1
    assert schedule.cosine(0, 0, 1.0, 0.2) == 0.2
    assert schedule.poly(0, 0, 1.0) == 0
    assert schedule.quarter_cosine(50, 40, 128, 4, hold=40) == 4
