"""What the tests of studies share."""

from __future__ import annotations

from esnac_lib.training.progress import Progress


class Listening(Progress):
    """Keeps what it is told."""

    def __init__(self) -> None:
        super().__init__(bars=False)
        self.said: list[str] = []

    def note(self, text: str) -> None:
        self.said.append(text)
