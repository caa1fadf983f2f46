"""Channel groups by dependency: what is tied, what is frozen and why, which layers can go, and limits on the size."""

from __future__ import annotations

from functools import cache

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from esnac_lib.architecture.tracing import trace
from esnac_lib.errors import SpaceError
from esnac_lib.seeding import make_rng
from esnac_lib.space.decisions import Decisions, Limits
from esnac_lib.space.search_space import SearchSpace
from esnac_lib.space.verification import verify


class Net(nn.Module):
    """A stem, a gated block with a residual sum, two convolutions in a row, a hidden linear layer after a flatten."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.expand = nn.Conv2d(8, 16, 1)
        self.depthwise = nn.Conv2d(16, 16, 3, padding=1, groups=16)
        self.squeeze = nn.Conv2d(16, 4, 1)
        self.excite = nn.Conv2d(4, 16, 1)
        self.project = nn.Conv2d(16, 8, 1)
        self.first = nn.Conv2d(8, 12, 3, padding=1)
        self.second = nn.Conv2d(12, 12, 3, padding=1)
        self.hidden = nn.Linear(12 * 4, 20)
        self.classes = nn.Linear(20, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x).relu()
        y = self.depthwise(self.expand(x).relu())
        y = y * self.excite(self.squeeze(y.mean((2, 3), keepdim=True)).relu()).sigmoid()
        x = x + self.project(y)
        x = F.adaptive_avg_pool2d(self.second(self.first(x).relu()).relu(), 2)
        return self.classes(self.hidden(torch.flatten(x, 1)).relu())


@cache
def space(grouping: str = "dependency", limits: Limits | None = None) -> SearchSpace:
    torch.manual_seed(0)
    return SearchSpace(traced()[0], grouping=grouping, limits=limits)


@cache
def traced() -> tuple:
    torch.manual_seed(0)
    return trace(Net(), torch.randn(1, 3, 6, 6))


def members(found: SearchSpace) -> list[set[str]]:
    names = [layer.name for layer in found.teacher.layers]
    return [{names[i] for segment in group.segments for i in segment.positions} for group in found.groups]


def test_what_the_data_flow_ties_shares_a_ratio() -> None:
    tied = [{"stem", "project"}, {"expand", "excite"}, {"squeeze"}, {"first"}, {"second"}, {"hidden"}]
    assert sorted(map(sorted, members(space()))) == sorted(map(sorted, tied))


def test_every_group_shrinks_what_depends_on_it() -> None:
    found = space()
    for g, names in enumerate(members(found)):
        ratios = tuple(0.5 if g == other else 0.0 for other in range(len(found.groups)))
        student = found.apply(Decisions(frozenset(), ratios, frozenset()))
        width = {layer.name: layer.channels for layer in student.layers}
        full = {layer.name: layer.channels for layer in found.teacher.layers}
        changed = {name for name in full if width[name] != full[name]}
        follows = {"depthwise"} if "expand" in names else set()
        assert changed == names | follows and all(2 * width[name] == full[name] for name in changed)
        verify(student, traced()[1])


def test_a_layer_between_two_groups_can_go_and_makes_them_one() -> None:
    found = space()
    index = found.teacher.index("second")
    assert index in found.removable and found.teacher.index("first") not in found.removable
    low, high = found.grouping.couplings[index]
    ratios = tuple(0.5 if g == low else 0.25 if g == high else 0.0 for g in range(len(found.groups)))
    decided = found.normalise(Decisions(frozenset({index}), ratios, frozenset()))
    assert decided.ratios[low] == decided.ratios[high] == 0.5 and found.normalise(decided) == decided
    student = found.apply(decided)
    assert found.contains(student)
    verify(student, traced()[1])
    assert found.normalise(Decisions(frozenset(), ratios, frozenset())).ratios == ratios


def test_skips_join_layers_of_one_group_only() -> None:
    found = space()
    group_of = {name: g for g, names in enumerate(members(found)) for name in names}
    names = [layer.name for layer in found.teacher.layers]
    for i, j in found.connectable:
        made, read = found.grouping.out[i], found.grouping.into[j]
        assert made == read and (made.group is not None or made.is_fixed), (names[i], names[j])
    pairs = {(names[i], names[j]) for i, j in found.connectable}
    assert ("stem", "first") in pairs  # the residual stream
    assert ("first", "hidden") not in pairs and group_of["first"] != group_of["second"]
    assert not {(a, b) for a, b in pairs if (a, b) == ("second", "second")}


def test_random_students_are_members_and_proved() -> None:
    for grouping in ("dependency", "dimension"):
        found = space(grouping)
        for seed in range(12):
            decided = found.mutate(found.sample(make_rng(seed, "grouping")), make_rng(seed, "mutate"))
            student = found.apply(decided)
            assert found.contains(student)
            verify(student, traced()[1])


def test_why_channels_stay() -> None:
    found = space()
    why = {layer.name: found.grouping.flow.why_fixed(i) for i, layer in enumerate(found.teacher.layers)}
    assert why["classes"] == "it is the network's output" and why["stem"] is None and why["depthwise"] is None


@pytest.mark.parametrize("limits", [Limits(max_params=1500), Limits(max_macs=20_000), Limits(1200, 15_000)])
def test_what_is_drawn_stays_within_limits(limits: Limits) -> None:
    found = space(limits=limits)
    assert not limits.allow(found.teacher)
    a = found.sample(make_rng(0, "limits"))
    for seed in range(15):
        b = found.sample(make_rng(seed, "limits"))
        for decided in (b, found.mutate(b, make_rng(seed, "m")), found.cross(a, b, make_rng(seed, "c"))):
            assert limits.allow(found.apply(decided)) and found.within(decided) == decided


def test_a_student_is_shrunk_by_as_little_as_it_takes() -> None:
    found = space(limits=Limits(max_params=1500))
    fitted = found.apply(found.within(found.nothing)).num_params
    assert 0.85 * 1500 < fitted <= 1500
    inside = found.within(found.narrow(900))
    assert inside == found.narrow(900)


def test_limits_that_cannot_be_kept_are_refused() -> None:
    with pytest.raises(SpaceError, match="with every group shrunk as far as it goes"):
        SearchSpace(traced()[0], grouping="dependency", limits=Limits(max_params=10))
    with pytest.raises(SpaceError, match="add the operator shrink"):
        SearchSpace(traced()[0], ("remove",), limits=Limits(max_params=1500))
