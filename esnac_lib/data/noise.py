"""What an accuracy on so many images is worth: its noise, and whether it beats guessing."""

from __future__ import annotations

import math

import numpy as np

NORMAL_95 = 1.96  # standard deviations either side that hold 95 % of a normal distribution
CLEAR_OF_CHANCE = 2.0  # standard deviations above guessing, from which a network is said to have learned something


def noise_band(first: float, second: float, images: int) -> float:
    """Return half of the 95 % band of the difference of two accuracies (fractions) on equally many images.

    That of two binomials, by Agresti and Caffo: each with one more right and one more wrong answer, so that even of two
    networks without a mistake the band is not zero.
    """
    first, second = ((accuracy * images + 1) / (images + 2) for accuracy in (first, second))
    return NORMAL_95 * math.sqrt((first * (1 - first) + second * (1 - second)) / (images + 2))


def commonest_share(labels: np.ndarray) -> float:
    """Return the accuracy of always naming the commonest class: what chance is."""
    return float(np.bincount(labels).max() / len(labels))


def is_near_chance(accuracy: float, share: float, images: int) -> bool:
    """Return whether an accuracy is at most two binomial standard deviations above the commonest class's `share`."""
    return accuracy <= share + CLEAR_OF_CHANCE * math.sqrt(share * (1 - share) / images)


def near_chance(who: str, accuracy: float, chance: float) -> str:
    """Return what is wrong with a network that `is_near_chance`."""
    guess = f"{accuracy:.2%} where always naming the commonest class gives {chance:.2%}"
    return f"{who} hardly beats guessing: {guess}, so that what a student loses or keeps says nothing"
