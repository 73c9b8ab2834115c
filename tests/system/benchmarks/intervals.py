#!/usr/bin/env python3
"""Do intervals cover what they promise, and does equivalence keep its level?

`PYTHONPATH=src .venvs/figures/bin/python tests/system/benchmarks/intervals.py [DRAWS]`: a line for
each, with the share of DRAWS (1,000) and the standard error of that share.
"""

import math
import sys
from collections.abc import Callable

import numpy as np

from subnetworks.artefacts.pairing import bootstrap_interval, randomisation_test
from subnetworks.artefacts.statistics import (
    LEVEL,
    Mean,
    holm,
    over_seeds,
    over_seeds_and_questions,
    over_steps,
)

DRAWS = int(sys.argv[1]) if sys.argv[1:] else 1000
RNG = np.random.default_rng(0)


def report(what: str, promised: str, happens: Callable[[], bool]) -> None:
    """Print how often something happens."""
    share = sum(happens() for _ in range(DRAWS)) / DRAWS
    error = math.sqrt(share * (1 - share) / DRAWS)
    print(f"{what:<72} {promised:>6} {share:7.1%} ± {error:.1%}", flush=True)


def holds(found: Mean, truth: float = 0) -> bool:
    """Whether the 95 % interval holds the truth."""
    low, high = found.interval()
    return low <= truth <= high


def answers(seeds: int, questions: int, of_seeds: float, of_questions: float) -> np.ndarray:
    """Right or wrong: trainings and questions have random effects on the logit."""
    logit = 0.5 + of_seeds * RNG.normal(size=(seeds, 1))
    logit = logit + of_questions * RNG.normal(size=(1, questions))
    return (RNG.random((seeds, questions)) < 1 / (1 + np.exp(-logit))).astype(float)


def true_accuracy(of_seeds: float, of_questions: float) -> float:
    """Expected share of right answers over all trainings and questions."""
    rng = np.random.default_rng(1)
    logit = 0.5 + math.hypot(of_seeds, of_questions) * rng.normal(size=10**6)
    return float((1 / (1 + np.exp(-logit))).mean())


def autoregressive(n: int, memory: float) -> list[float]:
    """A series around 0 in which neighbours are alike."""
    values = [RNG.normal()]
    for _ in range(n - 1):
        values.append(memory * values[-1] + math.sqrt(1 - memory**2) * RNG.normal())
    return values


def pairs(seeds: int, own: float) -> list[float]:
    """Pairs of neighbouring trainings, which share what is a training's own."""
    effect, rest = own * RNG.normal(size=seeds), RNG.normal(size=seeds) * math.sqrt(1 - own**2)
    return [effect[i] + effect[(i + 1) % seeds] + rest[i] for i in range(seeds)]


def percentiles(table: np.ndarray, truth: float) -> bool:
    """Whether those of the hierarchical bootstrap hold the truth: seeds and questions redrawn."""
    seeds, questions = table.shape
    chosen = RNG.multinomial(seeds, np.full(seeds, 1 / seeds), 500)
    asked = RNG.multinomial(questions, np.full(questions, 1 / questions), 500)
    means = np.einsum("ds,sq,dq->d", chosen, table, asked, optimize=True) / table.size
    low, high = np.quantile(means, (0.025, 0.975))
    return bool(low <= truth <= high)


def paired_answers(n: int) -> np.ndarray:
    """Differences of two models that are right equally often, by question."""
    return RNG.choice([-1.0, 0.0, 1.0], n, p=[0.1, 0.8, 0.1])


def main() -> None:
    """Print all of them."""
    print(f"{DRAWS:,} draws".ljust(72), "wanted  found")
    for n in (2, 3, 5):
        report(
            f"interval over {n} seeds (t, {n - 1} degrees of freedom)",
            "95 %",
            lambda n=n: holds(over_seeds(list(RNG.normal(size=n)))),
        )
    for n in (3, 5):
        for own in (1.0, 0.5, 0.0):
            report(
                f"over {n} pairs of {n} seeds, {own:.0%} of the spread the trainings' own",
                "≥95 %" if own < 1 else "95 %",
                lambda n=n, own=own: holds(over_seeds(pairs(n, own), in_pairs=True)),
            )
    report(
        "  the same, 3 pairs taken for independent",
        "95 %",
        lambda: holds(over_seeds(pairs(3, 1.0))),
    )
    for seeds, questions, of_seeds, of_questions in (
        (1, 200, 0.0, 1.5),
        (3, 200, 0.3, 1.5),
        (3, 500, 0.1, 1.5),
        (3, 500, 0.0, 1.5),
        (3, 200, 1.0, 0.0),
        (5, 200, 0.3, 1.5),
    ):
        truth = true_accuracy(of_seeds, of_questions)
        what = f"{seeds} seeds, {questions} questions, effects {of_seeds:g}, {of_questions:g}"
        report(
            f"score, {what}",
            "≥95 %",
            lambda a=(seeds, questions, of_seeds, of_questions), truth=truth: holds(
                over_seeds_and_questions(answers(*a)), truth
            ),
        )
        if of_seeds >= 0.3:
            report(
                "  the same, percentiles of the hierarchical bootstrap",
                "95 %",
                lambda a=(seeds, questions, of_seeds, of_questions), truth=truth: percentiles(
                    answers(*a), truth
                ),
            )
            report(
                "  the same, all answers taken for independent (the error within a model)",
                "95 %",
                lambda a=(seeds, questions, of_seeds, of_questions), truth=truth: holds(
                    over_seeds_and_questions(answers(*a).reshape(1, -1)), truth
                ),
            )
    report(
        "difference of two scores on 500 questions, paired bootstrap",
        "95 %",
        lambda: (lambda ends: bool(ends[0] <= 0 <= ends[1]))(
            bootstrap_interval(paired_answers(500))
        ),
    )
    for n, memory in ((30, 0.0), (50, 0.5), (50, 0.8), (200, 0.8)):
        report(
            f"mean over {n} steps that remember {memory:.0%} (batch means)",
            "95 %",
            lambda n=n, memory=memory: holds(over_steps(autoregressive(n, memory))),
        )
    for spread in (0.3, 1.0):
        report(
            f"called equivalent at the margin itself, 3 seeds, spread {spread:g} of 2 points",
            "≤ 5 %",
            lambda s=spread: over_seeds(list(RNG.normal(2, s, 3))).standing(2) == "equivalent",
        )
        report(
            f"called equivalent where there is no difference, spread {spread:g}",
            "power",
            lambda s=spread: over_seeds(list(RNG.normal(0, s, 3))).standing(2) == "equivalent",
        )
    report(
        "called equivalent at the margin: one seed, 500 questions, margin 10 points",
        "≤ 5 %",
        lambda: (
            over_seeds_and_questions(
                RNG.choice([-1.0, 0, 1], (1, 500), p=[0.05, 0.8, 0.15])
            ).standing(0.1)
            == "equivalent"
        ),
    )
    report(
        "any of 8 true hypotheses refused, McNemar with Holm's correction",
        "≤ 5 %",
        lambda: any(
            p is not None and p < LEVEL
            for p in holm([randomisation_test(paired_answers(500)) for _ in range(8)])
        ),
    )


if __name__ == "__main__":
    main()
