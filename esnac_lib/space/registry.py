"""The list of operators. To add one, write a file that declares it, and add a line here."""

from __future__ import annotations

from dataclasses import dataclass

from esnac_lib.config.registry import Registry


@dataclass(frozen=True)
class Operator:
    """A row of the registry of operators."""

    name: str


OPERATORS: Registry[Operator] = Registry("operator")
for name in ("remove", "shrink", "skip"):
    OPERATORS.register(Operator(name))
