"""What a training minimises: the loss on the labels, of all classes or some, and agreement with a teacher."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from dilt_hf.models.anatomy import logits_of


class ClassLoss:
    """Cross-entropy over the outputs of some classes, given global class ids."""

    def __init__(self, classes: Sequence[int] | None, label_smoothing_factor: float, device: torch.device):
        self.smoothing = label_smoothing_factor
        # what tells two losses apart; asked in every step, so it must not wait for the device
        self.identity = (self.smoothing, None if classes is None else tuple(sorted(classes)))
        self.classes = None if classes is None else torch.tensor(sorted(classes), device=device)
        if self.classes is not None:
            self.position = torch.full((int(self.classes.max()) + 1,), -100, device=device)
            self.position[self.classes] = torch.arange(len(self.classes), device=device)

    def __call__(self, logits: Tensor, labels: Tensor, partners: Tensor | None = None, share: float = 1.0) -> Tensor:
        """Compute the mean loss; with `partners`, of targets that are the fraction `share` label and the rest the
        partner's label.
        """
        if self.classes is not None:
            logits, labels = logits.index_select(1, self.classes), self.position[labels]
            partners = None if partners is None else self.position[partners]
        logits = logits.float() if logits.dtype.itemsize < 4 else logits
        loss = nn.functional.cross_entropy(logits, labels, label_smoothing=self.smoothing)
        if partners is None:
            return loss
        other = nn.functional.cross_entropy(logits, partners, label_smoothing=self.smoothing)
        return share * loss + (1 - share) * other


@dataclasses.dataclass(frozen=True)
class Teacher:
    """A network whose outputs are part of what is learned (Hinton et al. 2015, arXiv 1503.02531).

    Attributes:
        model: in evaluation mode, on the device; its outputs are those of the student.
        share: the weight of the divergence of softened outputs from the teacher's; the rest is the labels'.
        temperature: what logits are divided by for it.
    """

    model: nn.Module
    share: float = 0.5
    temperature: float = 1.0

    def teach(self, loss: Tensor, logits: Tensor, pixels: Tensor) -> Tensor:
        """Mix the loss on the labels with the divergence from the teacher."""
        with torch.no_grad():
            wanted = logits_of(self.model, pixels).float() / self.temperature
        mine = nn.functional.log_softmax(logits.float() / self.temperature, dim=1)
        apart = nn.functional.kl_div(mine, wanted.log_softmax(dim=1), reduction="batchmean", log_target=True)
        return (1 - self.share) * loss + self.share * self.temperature**2 * apart
