"""The rule for overfitting and the best step: curves that turn are named, others never."""

from __future__ import annotations

import math
import random
from collections.abc import Callable

import pytest

from finetune_gateway.events import Metric
from finetune_gateway.jobs.overfitting import (
    Loss,
    best,
    find_overfitting,
    result_step_text,
    since_best,
)
from finetune_gateway.reports.loss_chart import overfitting_note


def by_tens(*losses: float) -> list[Loss]:
    return [(10 * at, loss) for at, loss in enumerate(losses, 1)]


FALLING = by_tens(2.0, 1.2, 0.8, 0.5, 0.3, 0.2)


def test_a_curve_that_turns_is_named_with_its_step() -> None:
    """From the lowest loss on, once two evaluations in a row are clearly above it."""
    turned = by_tens(1.9, 1.4, 1.2, 1.3, 1.5)
    assert find_overfitting(FALLING, turned[:4]) is None
    found = find_overfitting(FALLING, turned)
    assert found is not None and (found.step, found.last_step) == (30, 50)
    assert str(found) == ("overfitting from step 30 on: valid_loss 1.2 there, 1.5 at step 50")
    assert find_overfitting([], turned) is not None, "hosts may report the one loss alone"
    at_once = by_tens(1.2, 1.4, 1.6)
    assert (find_overfitting(FALLING, at_once) or found).step == 10


@pytest.mark.parametrize(
    "losses",
    [
        (1.9, 1.4, 1.2, 1.5, 1.21),  # a single one is above it
        (1.9, 1.4, 1.2, 1.21, 1.22),  # it levels out
        (0.5, 0.02, 0.01, 0.012, 0.013),  # trembles near zero, far below where it began
        (1.9, 1.4),
        (1.9,),
        (),
    ],
)
def test_a_curve_that_levels_out_is_none(losses: tuple[float, ...]) -> None:
    """Small rises, one alone, and too few evaluations."""
    assert find_overfitting(FALLING, by_tens(*losses)) is None


def test_a_training_that_becomes_worse_is_no_overfitting() -> None:
    """The training loss rises with the other: that is a learning rate, or data."""
    rising = by_tens(2.0, 1.4, 1.2, 1.4, 1.6)
    assert find_overfitting(rising, rising) is None
    assert find_overfitting(FALLING, rising) is not None


def healthy(rng: random.Random, noise: float, count: int) -> tuple[list[Loss], list[Loss]]:
    """Losses that fall to a level and tremble there, those of training further down."""
    first, level, fast = rng.uniform(0.7, 4), rng.uniform(0.02, 0.9), rng.uniform(2, 30)
    curve = [level + (1 - level) * math.exp(-fast * at / count) for at in range(1, count + 1)]
    valid = [first * one * (1 + rng.gauss(0, noise)) for one in curve]
    train = [first, *(first * one * 0.8 * (1 + rng.gauss(0, 5 * noise)) for one in curve)]
    return [*enumerate(train)], [*enumerate(valid, 1)]


@pytest.mark.parametrize("count", [3, 5, 10, 19, 100])
def test_healthy_curves_are_never_named(count: int) -> None:
    """300 simulated runs whose held-out loss differs by half a percent from one to the next."""
    rng = random.Random(count)
    found = [find_overfitting(*healthy(rng, 0.005, count)) for _ in range(300)]
    assert not any(found)


@pytest.mark.parametrize("count", [6, 10, 19, 100])
def test_planted_ones_are_named_near_the_minimum(count: int) -> None:
    """300 runs that turn somewhere and lose a third of what they had won: within one evaluation,
    of a hundred within five."""
    rng = random.Random(count)
    for _ in range(300):
        first, turn = rng.uniform(0.7, 4), rng.randint(1, count - 3 * max(1, count // 20))
        lowest = first * rng.uniform(0.2, 0.8)
        falls = [first - (first - lowest) * at / turn for at in range(1, turn + 1)]
        later = count - turn
        rises = [lowest + (first - lowest) * at / later / 3 for at in range(1, later + 1)]
        train = [(at, first * 0.9 ** (20 * at / count)) for at in range(count + 1)]
        named = find_overfitting(train, [*enumerate([*falls, *rises], 1)])
        assert named is not None and abs(named.step - turn) <= max(1, count // 20)


def test_the_best_step_and_what_came_after() -> None:
    """The first of equal losses; how many evaluations came since."""
    valid = by_tens(1.0, 0.8, 0.9, 0.8)
    assert best(valid) == (20, 0.8) and since_best(valid) == 2
    assert since_best(valid[:2]) == since_best([]) == 0


@pytest.mark.parametrize(
    ("metrics", "text"),
    [
        (
            {"step": 120, "valid_loss": 1.21, "last_step": 300, "last_valid_loss": 1.64},
            "best at step 120 (validation loss 1.21), last step 300 (1.64)",
        ),
        (
            {"step": 300, "valid_loss": 1.64},
            "step 300, the last (validation loss 1.64)",
        ),
        ({"step": 300, "train_loss": 0.3}, ""),
        ({"valid_loss": 0.3}, ""),
        ({}, ""),
    ],
)
def test_the_step_of_a_result_in_words(metrics: dict[str, float], text: str) -> None:
    """Both losses and both steps; nothing where no rows were held out."""
    assert result_step_text(metrics) == text


def test_the_metrics_of_any_host_are_judged_by_the_same_rule() -> None:
    """Of many noisy evaluations the means of parts count; what is no number does not."""
    noise = [0.01 * (at % 7) for at in range(400)]

    def note(loss: Callable[[int], float]) -> str:
        metrics = [
            Metric(step=at + 1, train_loss=2 - at / 300, valid_loss=loss(at) + noise[at])
            for at in range(400)
        ]
        return overfitting_note([*metrics, Metric(step=401, valid_loss=float("nan"))])

    assert note(lambda at: 1 - at / 500) == "", "it falls"
    assert note(lambda at: 0.5) == "", "it stays"
    assert note(lambda at: 0.5 + abs(at - 200) / 400).startswith("overfitting from step 2")
