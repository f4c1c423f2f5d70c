"""State of the whole process that the code of a user may set: it stays with that code."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Self

import torch


@dataclass(frozen=True)
class ProcessState:
    """The working directory and PyTorch's defaults.

    Attributes:
        folder: None where the working directory was deleted.
    """

    folder: Path | None
    gradients: bool
    dtype: torch.dtype

    @classmethod
    def now(cls) -> Self:
        """The present state."""
        try:
            folder = Path.cwd()
        except FileNotFoundError:
            folder = None
        return cls(folder, torch.is_grad_enabled(), torch.get_default_dtype())

    def apply(self) -> None:
        """Make this the state of the process."""
        if self.folder is not None and self.folder.is_dir():
            os.chdir(self.folder)
        torch.set_grad_enabled(self.gradients)
        torch.set_default_dtype(self.dtype)


class Surroundings:
    """What a piece of user code has set for itself; the rest of the process does not see it.

    A reward that turns gradients off would otherwise stop training, and one that changes the
    working directory would move every relative path.
    """

    def __init__(self) -> None:
        self._own: dict[str, Any] = {}

    @contextmanager
    def entered(self) -> Iterator[None]:
        """Context manager: the user's code runs here, in the state that it last left."""
        before = ProcessState.now()
        replace(before, **self._own).apply()
        entered = asdict(ProcessState.now())
        try:
            yield
        finally:
            left = asdict(ProcessState.now())
            self._own |= {name: one for name, one in left.items() if one != entered[name]}
            before.apply()
