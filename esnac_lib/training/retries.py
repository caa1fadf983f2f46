"""Out-of-memory retries: a group that does not fit is trained in halves, those in halves, and at last one by one.

A trainee ends the same in any group (`trainer`), so that a group may be divided as memory asks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

from esnac_lib.architecture.network import Network
from esnac_lib.training.job import Outcome, Trainee

RETRIES = 2  # how often at least a training that met a fault of the machine is tried again


def train_with_retries(
    networks: Mapping[str, Callable[[], Network]], train_group: Callable[[Sequence[Trainee]], Mapping[str, Outcome]]
) -> Iterator[tuple[Outcome, Network]]:
    """Train a group; trainees that a fault of the machine stopped are tried again in groups of half the size.

    `networks` makes, by key, each network with the weights that its training starts from. Each outcome is yielded, with
    its network, as soon as it is final. One that is still a fault of the machine was met twice by a trainee alone.
    """
    left, sizes = list(networks), _group_sizes(len(networks))
    for number, size in enumerate(sizes, start=1):
        again: list[str] = []
        for start in range(0, len(left), size):
            group = {key: networks[key]() for key in left[start : start + size]}
            outcomes = train_group([Trainee(key, network) for key, network in group.items()])
            for key, network in group.items():
                if outcomes[key].retry and number < len(sizes):
                    again.append(key)
                else:
                    yield outcomes[key], network
        left = again


def _group_sizes(count: int) -> list[int]:
    """Return the sizes of the groups from one attempt to the next: 8, 4, 2, 1, 1; 2, 1, 1; 1, 1, 1."""
    sizes = [count]
    while sizes[-1] > 1:
        sizes.append((sizes[-1] + 1) // 2)
    return sizes + [1] * max(1, 1 + RETRIES - len(sizes))
