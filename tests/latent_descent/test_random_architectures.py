"""Random architectures: §9's rules, the distribution around a teacher, and how they are counted."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
import torch

from esnac_lib.architecture.tracing import trace
from esnac_lib.errors import SpaceError
from esnac_lib.latent_descent import random_architectures as module
from esnac_lib.latent_descent.collection import distribution_of
from esnac_lib.latent_descent.random_architectures import draw, random_sequence, sequence_around
from esnac_lib.latent_descent.sequence import CONV, DROPOUT, LINEAR, POOLS, InvalidSequence, Item, SequenceSpace
from esnac_lib.seeding import make_rng
from esnac_lib.teachers import teacher

SPACE = SequenceSpace((1, 28, 28), 10, max_macs=12_000_000)
CONV7 = trace(teacher("conv7", 10, 1, 28, seed=0), torch.zeros(1, 1, 28, 28))[0]


def test_draws_follow_the_rules_of_section_9() -> None:
    sequences = [random_sequence(SPACE, make_rng(0, "draw", index)) for index in range(1500)]
    lengths = [len(items) for items in sequences]
    assert set(lengths) == set(range(2, 51))  # l ~ U(2, 50)
    assert all(items[-1] == Item(LINEAR, 0, 10, 0, 0) for items in sequences)
    inner = [item for items in sequences for item in items[:-1]]
    shares = np.bincount([item.t for item in inner], minlength=9)[1:] / len(inner)
    assert np.abs(shares - 1 / 8).max() < 0.01  # t ~ U(1, 8); one deviation is 0.0017
    convs = [item for item in inner if item.t == CONV]
    for values, low, high in (
        ([item.k for item in convs], 1, 10),
        ([item.s for item in convs], 1, 10),
        ([item.p for item in convs], 1, 10),
        ([item.o for item in convs], 16, 4096),
    ):
        assert min(values) >= low and max(values) <= high
        assert np.mean(values) == pytest.approx((low + high) / 2, rel=0.03)
    assert all(item.p == 0 for item in inner if item.t in POOLS)  # where assumption 3 is enforced
    assert {item.p for item in inner if item.t == DROPOUT} == set(range(1, 10))


def test_what_is_drawn_is_valid_new_and_repeatable_and_rejections_are_counted() -> None:
    sample, seen = partial(random_sequence, SPACE), set()
    for index in range(20):
        found = draw(SPACE, sample, make_rng(1, "draw", index), seen)
        arch_id = SPACE.to_architecture(found.items).arch_id
        assert arch_id not in seen
        seen.add(arch_id)
        assert found == draw(SPACE, sample, make_rng(1, "draw", index), seen - {arch_id})
    rng, rejected = make_rng(1, "draw", 0), 0
    while True:  # the slow twin: count what comes before the first valid one
        try:
            SPACE.check(random_sequence(SPACE, rng))
            break
        except InvalidSequence:
            rejected += 1
    assert sum(draw(SPACE, sample, make_rng(1, "draw", 0)).rejected.values()) == rejected


def test_a_known_architecture_is_drawn_again_only_as_a_rejection() -> None:
    sample = partial(random_sequence, SPACE)
    first = draw(SPACE, sample, make_rng(1, "draw", 0)).items
    second = draw(SPACE, sample, make_rng(1, "draw", 0), {SPACE.to_architecture(first).arch_id})
    assert second.items != first and second.rejected["seen before"] == 1


def test_an_empty_space_is_told_and_not_searched_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_DRAWS", 50)
    tight = SequenceSpace((1, 28, 28), 10, max_macs=1)
    with pytest.raises(SpaceError, match=r"no new architecture in 50 draws: .*raise max_macs"):
        draw(tight, partial(random_sequence, tight), make_rng(0, "draw", 0))


def test_networks_around_a_teacher_are_narrower_and_near_it() -> None:
    space = SequenceSpace((1, 28, 28), 10, width_step=8)
    items = space.to_sequence(CONV7)
    found = [draw(space, partial(sequence_around, space, items), make_rng(0, "around", i)).items for i in range(200)]
    params = np.array([space.to_architecture(one).num_params for one in found])
    assert params.max() <= CONV7.num_params and np.median(params) > CONV7.num_params / 60
    assert all(item.o <= 256 and item.o % 8 == 0 for one in found for item in one if item.t == CONV)
    lengths = np.array([len(one) for one in found])
    assert lengths.max() <= len(items) + 3 and np.median(lengths) >= len(items) - 6
    assert len({space.to_architecture(one).arch_id for one in found}) == len(found)


def test_every_prefix_of_the_set_has_its_share_of_each_distribution() -> None:
    for around in (0.0, 0.25, 0.75, 1.0):
        kinds = [distribution_of(index, around) == "around" for index in range(40)]
        for count in range(1, 41):
            assert sum(kinds[:count]) == int(count * around + 1e-9)
