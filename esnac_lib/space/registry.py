"""The list of operators. To add one, write a file in `operators/` that declares it, and add a line here."""

from __future__ import annotations

from collections.abc import Collection

from esnac_lib.config.registry import Registry
from esnac_lib.space.operators.base import Operator
from esnac_lib.space.operators.remove import Remove
from esnac_lib.space.operators.shrink import Shrink
from esnac_lib.space.operators.skip import Skip

OPERATORS: Registry[Operator] = Registry("operator")
OPERATORS.register(Remove())
OPERATORS.register(Shrink())
OPERATORS.register(Skip())


def core_and(names: Collection[str]) -> tuple[Operator, ...]:
    """Return the paper's operators, and those of the given names, in the registry's order."""
    return tuple(operator for operator in OPERATORS.values() if operator.core or operator.name in names)
