"""What a training that is killed goes on from: written whole at the end of each epoch."""

from __future__ import annotations

import io
from dataclasses import asdict, dataclass, field
from typing import Any

import torch

from cnnviz.errors import CnnvizError
from cnnviz.io.store import Store

FILE = "state.pt"


@dataclass(frozen=True)
class Epoch:
    """Figures of an epoch: a line of ``metrics.jsonl``.

    Losses are mean cross-entropies in nats, accuracies shares from 0 to 1; those of training are taken of the batches
    as they were learned from, those of validation at the end of the epoch.
    """

    epoch: int
    learning_rate: float
    train_loss: float
    train_accuracy: float
    val_loss: float
    val_accuracy: float
    seconds: float

    def better_than(self, other: Epoch | None) -> bool:
        """More of the validation pictures right, or as many with a lower loss."""
        if other is None:
            return True
        return (self.val_accuracy, -self.val_loss) > (other.val_accuracy, -other.val_loss)


@dataclass
class Progress:
    """How far a training has come.

    Attributes:
        data: Digest of the pictures and of what they are for.
        epochs: Figures of the epochs that are done.
        tensors: Weights and optimizer at the end of the last of these; empty when the training is over.
    """

    data: str
    epochs: list[Epoch] = field(default_factory=list)
    tensors: dict[str, Any] = field(default_factory=dict)

    @property
    def best(self) -> Epoch | None:
        """The first of the best epochs."""
        found: Epoch | None = None
        for each in self.epochs:
            found = each if each.better_than(found) else found
        return found

    @property
    def since_best(self) -> int:
        """Epochs after the best one."""
        return 0 if self.best is None else self.epochs[-1].epoch - self.best.epoch


def write(store: Store, progress: Progress) -> None:
    """Put it in the place of what was written before."""
    content = io.BytesIO()
    state = {"data": progress.data, "epochs": [asdict(each) for each in progress.epochs], "tensors": progress.tensors}
    torch.save(state, content)
    store.write(FILE, content.getvalue())


def read(store: Store, data: str) -> Progress | None:
    """What an earlier run wrote; None where there is nothing.

    Raises:
        CnnvizError: It cannot be read, or learned from other pictures.
    """
    content = store.read(FILE)
    if content is None:
        return None
    again = "Use --overwrite to begin again, or -o for another folder."
    try:
        state = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
        found = Progress(state["data"], [Epoch(**each) for each in state["epochs"]], state["tensors"])
    except Exception as error:  # a damaged pickle raises anything
        raise CnnvizError(f"--resume: {FILE} in {store.root} cannot be read: {type(error).__name__}.", again) from error
    if found.data != data:
        raise CnnvizError(f"--resume: the pictures changed since the training in {store.root} began.", again)
    return found
