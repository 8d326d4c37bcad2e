"""Pixel-pixel similarity: learned on base classes, distilled into the scores of novel ones (section 6).

Legend: P pairs of images, B = 2P images in the order image, reference, image, ...; K classes, Q queries, C channels of
the embedding, h and w cells, J points. A pair loss is the mean over pairs of images, each of which the net normalises
by itself, so that it does not matter how many of them a process has.
"""

import numpy as np
import torch
import torch.nn.functional as F
from mmcv.runner import BaseModule
from mmdet.core import reduce_mean
from torch import Tensor

from pipeline.methods.shared.draws import DrawsByStep
from pipeline.methods.simformer.points import (
    Cells,
    at_points,
    base_points,
    common_classes,
    drawn_class,
    other_image,
    regions,
    top_points,
)
from pipeline.methods.simformer.similarity import ClassBalance, SimilarityNet, all_pairs
from pipeline.methods.simformer.targets import Targets

COUNTED = 5  # every so many points the class balance counts one
CLAMP = 0.01, 0.99  # of teacher and student in the cross entropy


class PixelPairs(DrawsByStep, BaseModule):
    """The similarity net with both of its losses.

    Args:
        channels: C.
        width, blocks: of the net.
        points: J.
        similarity_weight, distillation_weight: of the losses.
        distillation, student, detach_embedding, detach_teacher, teacher_statistics, balance_pairs, exchange_balance: as
            in `Knobs`.
    """

    def __init__(
        self,
        channels,
        width,
        blocks,
        points,
        similarity_weight,
        distillation_weight,
        distillation,
        student,
        detach_embedding,
        detach_teacher,
        teacher_statistics,
        balance_pairs,
        exchange_balance,
    ):
        super().__init__()
        self.points = points
        self.similarity_weight, self.distillation_weight = similarity_weight, distillation_weight
        self.distillation, self.student = distillation, student
        self.detach_embedding, self.detach_teacher = detach_embedding, detach_teacher
        self.teacher_statistics = teacher_statistics
        self.balance_pairs, self.exchange_balance = balance_pairs, exchange_balance
        self.net = SimilarityNet(2 * channels, width, blocks)
        self.balance = ClassBalance()

    def loss(self, embedding: Tensor, logits: Tensor, masks: Tensor, targets: Targets, inside: Tensor, novel) -> dict:
        """Both losses, weighted.

        Args:
            embedding: [B, C, h, w].
            logits: [B, Q, K + 1] of the last decoder layer.
            masks: [B, Q, h, w] logits of it.
            targets: of the images.
            inside: [B, H, W] bool, False in the padding.
            novel: the classes [n] that have no masks in the training, whichever the images show.
        """
        cells = Cells.of(targets, inside, embedding.shape[-2:])
        common = torch.from_numpy(common_classes(targets.has_class[:, 0])).to(embedding.device)
        similarity = self.similarity_loss(embedding, cells, common)
        shared = common_classes(targets.has_class[:, 1]).any(1)
        distillation = self.distillation_loss(embedding, logits, masks, cells, shared, novel)
        return {
            "loss_similarity": self.similarity_weight * similarity,
            "loss_distillation": self.distillation_weight * distillation,
        }

    def similarity_loss(self, embedding: Tensor, cells: Cells, common: Tensor) -> Tensor:
        """Cross entropy of "same class" over pixel pairs across images of which at least one pixel is base.

        Args:
            common: [P, K] bool, base classes that both images show.
        """
        size = cells.base.shape
        chosen = drawn_class(common, self.numbers("class", common.shape, common.device))
        noises = tuple(self.numbers(part, size, embedding.device) for part in ("same", "other"))
        points = base_points(*regions(cells, *chosen), noises, self.points)
        same, counted = pixel_pairs(cells, points)
        self.count(same, counted)
        logits = self.compared(embedding.detach() if self.detach_embedding else embedding, points)
        negative, positive = self.balance.weights()
        weight = torch.where(same, positive, negative) * counted
        losses = weight * F.binary_cross_entropy_with_logits(logits, same.to(logits.dtype), reduction="none")
        losses, counted = (each.unflatten(0, (-1, 2)).flatten(1).sum(1) for each in (losses, counted))
        return (losses / counted.clamp(min=1)).mean()

    def distillation_loss(
        self, embedding: Tensor, logits: Tensor, masks: Tensor, cells: Cells, shared: np.ndarray, novel
    ) -> Tensor:
        """The scores of novel classes at two pixels are to be as similar as the net, the teacher, says.

        Args:
            shared: [P] bool on the host, whether two images share a novel class; the others have no loss.
        """
        if not self.distillation_weight or not shared.any():
            return logits[:0].sum() + masks[:0].sum()
        noise = self.numbers("novel", cells.base.shape, embedding.device)
        points = top_points(~cells.base, noise, self.points)
        images = torch.from_numpy(np.flatnonzero(shared.repeat(2))).to(embedding.device)
        embedding, logits, masks, points = (each[images] for each in (embedding, logits, masks, points))
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.detach_teacher):
            teacher = self.compared(embedding, points, self.teacher_statistics).sigmoid()
        scores = F.normalize(novel_scores(logits, at_points(masks, points), novel), dim=1)
        partner = other_image(scores) if self.student == "cross_image" else scores
        student = torch.einsum("bni,bnj->bij", scores, partner).relu()
        return distilled(teacher, student, self.distillation).mean() * float(shared.mean())

    def compared(self, embedding: Tensor, points: Tensor, track: bool = True) -> Tensor:
        """Logits [B, J, J] of "same class": point i of an image, the first of the two, with point j of the other one.

        Args:
            track: the pass moves the running statistics of the net.
        """
        columns = at_points(embedding, points)
        pairs, points = all_pairs(columns, other_image(columns)), columns.shape[2]
        logits = [self.net(two.flatten(0, 1), track) for two in pairs.split(2)]
        return torch.cat(logits).view(-1, points, points)

    def count(self, same: Tensor, counted: Tensor):
        """Tell the class balance of pixel pairs [B, J, J]."""
        same, counted = (each[:, ::COUNTED, ::COUNTED] for each in (same, counted))
        counted = torch.ones_like(same) if self.balance_pairs == "all" else counted
        numbers = torch.stack([(same & counted).sum(), (~same & counted).sum()]).float()
        self.balance.add(*(reduce_mean(numbers) if self.exchange_balance else numbers))

    def numbers(self, purpose: str, shape, device) -> Tensor:
        """Random numbers in [0, 1) of this step, for one purpose."""
        return torch.rand(shape, device=device, generator=self._generator(device, f"simformer {purpose} "))


def pixel_pairs(cells: Cells, points: Tensor) -> tuple[Tensor, Tensor]:
    """Which pixel pairs across images are of the same class, and which count: those with a base pixel.

    Args:
        points: [B, J].

    Returns:
        [B, J, J] bool each: point i of an image with point j of the other one.
    """
    labels, base = (each.flatten(1).gather(1, points) for each in (cells.labels, cells.base))
    same = labels[:, :, None] == other_image(labels)[:, None]
    return same, base[:, :, None] | other_image(base)[:, None]


def novel_scores(logits: Tensor, masks: Tensor, novel) -> Tensor:
    """Scores [B, n, J] of the novel classes at points, from logits [B, Q, K + 1] and mask logits [B, Q, J] there."""
    classes = torch.as_tensor(novel, device=logits.device)
    return torch.einsum("bqn,bqj->bnj", logits.softmax(-1)[..., classes], masks.sigmoid())


def distilled(teacher: Tensor, student: Tensor, form: str) -> Tensor:
    """Loss of each pair, from similarities in [0, 1] of teacher and student.

    Args:
        form: ce, cce, or b and a threshold (`Knobs.distillation`).
    """
    if form == "ce":
        return F.binary_cross_entropy(student.clamp(*CLAMP), teacher.clamp(*CLAMP), reduction="none")
    if form == "cce":
        above, below = (teacher - 0.5).relu(), (0.5 - teacher).relu()
        return -above * torch.log(1 + student) - below * torch.log(2 - student)
    return -(teacher - float(form.removeprefix("b"))) * student
