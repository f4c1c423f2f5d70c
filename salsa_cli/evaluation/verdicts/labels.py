"""The label with which a judge names the better of two answers."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Label:
    """The outcome for the answer shown first: 1, 0.5 or 0.

    `strong` says that the winner is much better (Arena-Hard's `>>`).
    """

    outcome: float
    strong: bool = False

    @property
    def swapped(self) -> "Label":
        """The same label seen from the answer shown second."""
        return Label(1.0 - self.outcome, self.strong)
