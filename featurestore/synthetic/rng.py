"""A random number generator that is reproducible on every machine and Python version."""

import math
import random
from collections.abc import Iterable, Mapping, Sequence
from itertools import accumulate
from typing import TypeVar

T = TypeVar("T")


class Rng:
    """A generator whose seed is a path of names, such as `Rng(0, 10_001, "patient")`.

    It uses only `random()`, because Python guarantees the sequence of no other method. It adds
    floats with `math.fsum`, because the rounding of `sum` changed in Python 3.12.
    """

    def __init__(self, *seed: int | str) -> None:
        self.random = random.Random("/".join(map(str, seed))).random

    def chance(self, probability: float) -> bool:
        """Return True with the given probability."""
        return self.random() < probability

    def uniform(self, low: float, high: float) -> float:
        """Return a float between `low` and `high`."""
        return low + (high - low) * self.random()

    def integer(self, low: int, high: int) -> int:
        """Return an integer from `low` to `high`, both included."""
        return low + int(self.random() * (high - low + 1))

    def choice(self, items: Sequence[T]) -> T:
        """Return one of the items, all equally likely."""
        return items[int(self.random() * len(items))]

    def weighted_choice(self, weights: Mapping[str, float]) -> str:
        """Return one of the keys, with a probability proportional to its value."""
        threshold = self.random() * sum(weights.values())
        totals = accumulate(weights.values())
        return next(name for name, total in zip(weights, totals, strict=True) if threshold < total)

    def shuffled(self, items: Iterable[T]) -> list[T]:
        """Return the items in random order."""
        return sorted(items, key=lambda _: self.random())

    def normal(self) -> float:
        """Return an approximately standard normal number: 12 uniform numbers added, less 6."""
        return math.fsum(self.random() for _ in range(12)) - 6

    def lognormal(self, median: float, sigma: float) -> float:
        """Return a log-normal number; `sigma` is the standard deviation of its logarithm."""
        return median * math.exp(sigma * self.normal())


def normal_cdf(x: float) -> float:
    """Return the probability that `Rng.normal` gives at most `x`: the Irwin-Hall distribution."""
    if x > 0:
        return 1 - normal_cdf(-x)  # the sum below loses its digits where it is near 1
    terms = ((-1) ** k * math.comb(12, k) * (x + 6 - k) ** 12 for k in range(13) if k < x + 6)
    return math.fsum(terms) / math.factorial(12)
