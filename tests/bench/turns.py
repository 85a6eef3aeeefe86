"""Turns: every contestant once in each round of a case, A B C, B C A, …, so that all see the same minutes."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence

LEAST_ROUNDS = 3
TURN_S = 0.06
"""What one turn is to take where calls are short."""
MOST_CALLS = 40
Samples = dict[tuple[str, str], list[list[float]]]
"""Contestant and case to the milliseconds of every call, a list for each round."""


def order(names: Sequence[str], number: int) -> list[str]:
    """Return who comes when in a round: each round starts one further on."""
    start = number % len(names) if names else 0
    return [*names[start:], *names[:start]]


def calls_a_turn(milliseconds: Mapping[str, float]) -> int:
    """Return how many calls a turn has, for every contestant of a case the same, from what one call of each takes.

    Minima of more calls are lower, so that a faster contestant must not get more.
    """
    return max(1, min(MOST_CALLS, int(TURN_S * 1e3 / max(milliseconds.values()))))


def take(
    cases: Mapping[str, Sequence[str]], turn: Callable[[str, str], Sequence[float]], *, seconds: float,
    clock: Callable[[], float] = time.monotonic, least: int = LEAST_ROUNDS,
) -> Samples:
    """Return the milliseconds that ``turn(contestant, case)`` gave, round after round, for as long as there is time.

    ``cases`` names the contestants of each. A round is begun while less than ``seconds`` have passed, and finished:
    every contestant of a case has as many turns as any other. There are ``least`` rounds however long they take.
    """
    samples: Samples = {(name, case): [] for case, names in cases.items() for name in names}
    end = clock() + seconds
    for number in _rounds(lambda: clock() < end, least):
        for case, names in cases.items():
            for name in order(names, number):
                samples[name, case].append([1e3 * taken for taken in turn(name, case)])
    return samples


def _rounds(more: Callable[[], bool], least: int) -> Iterator[int]:
    number = 0
    while number < least or more():
        yield number
        number += 1
