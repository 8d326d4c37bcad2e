"""MMDetection's RoI head with the RoIs of all images sampled at once: the host reads how many there are, and no more.

Legend: B images, N candidates and G objects of an image, S sampled RoIs of one, p of them positive.
"""

from dataclasses import dataclass

import torch
from mmdet.models.builder import HEADS
from mmdet.models.roi_heads import StandardRoIHead
from torch import Tensor

from pipeline.methods.shared.assignment import assign, require_supported, sample
from pipeline.methods.shared.draws import DrawsByStep
from pipeline.methods.shared.padded import Padded


@dataclass(frozen=True)
class SampledRoIs:
    """The sampled RoIs of an image, positives first; as much of MMDetection's `SamplingResult` as is used.

    Attributes:
        bboxes: [S, 4].
        pos_assigned_gt_inds: [p] int64, index of a positive's object.
        pos_gt_bboxes: [p, 4], its box.
        pos_gt_labels: [p], its category.
        pos_is_gt: [p] bool, whether the RoI is the object's box itself.
    """

    bboxes: Tensor
    pos_assigned_gt_inds: Tensor
    pos_gt_bboxes: Tensor
    pos_gt_labels: Tensor
    pos_is_gt: Tensor

    @property
    def pos_bboxes(self):
        return self.bboxes[: len(self.pos_is_gt)]

    @property
    def neg_bboxes(self):
        return self.bboxes[len(self.pos_is_gt) :]


@HEADS.register_module()
class SampledRoIHead(DrawsByStep, StandardRoIHead):
    """`StandardRoIHead` for boxes, whose assignment and sampling do not loop over images.

    The sampled RoIs are those of `StandardRoIHead` or come from the same distribution.

    Args:
        kwargs: as `StandardRoIHead`. Raises ValueError for an assigner or a sampler that is not supported.
    """

    def init_assigner_sampler(self):
        super().init_assigner_sampler()
        if self.train_cfg:
            require_supported(self.bbox_assigner, self.bbox_sampler)

    def forward_train(
        self, x, img_metas, proposal_list, gt_bboxes, gt_labels, gt_bboxes_ignore=None, gt_masks=None, **kwargs
    ):
        """As `StandardRoIHead.forward_train`, the losses of boxes alone; proposals may be `Padded`."""
        sampled = self._sample(proposal_list, gt_bboxes, gt_labels, gt_bboxes_ignore)
        return self._bbox_forward_train(x, sampled, gt_bboxes, gt_labels, img_metas)["loss_bbox"]

    def _sample(self, proposal_list, gt_bboxes, gt_labels, gt_bboxes_ignore=None) -> list[SampledRoIs]:
        """Assign proposals to objects and sample RoIs.

        Args:
            proposal_list: [n, 5] per image, or `Padded`.
            gt_bboxes, gt_labels, gt_bboxes_ignore: as `forward_train`.
        """
        proposals, objects = Padded.of(proposal_list), Padded.of(gt_bboxes)
        ignored = None if gt_bboxes_ignore is None else Padded.of(gt_bboxes_ignore)
        candidates = proposals.rows[..., :4]
        assigned = assign(self.bbox_assigner, Padded(candidates, proposals.valid), objects, ignored)
        places = objects.rows.shape[1]  # of the objects among the candidates
        numbers = torch.arange(1, places + 1, device=candidates.device)
        if self.bbox_sampler.add_gt_as_proposals:
            candidates = torch.cat([objects.rows, candidates], 1)
            assigned = torch.cat([torch.where(objects.valid, numbers, -1), assigned], 1)
        positives, negatives = sample(self.bbox_sampler, assigned, self._generator(candidates.device, "rois/"))
        counts = torch.stack([positives.count, negatives.count], 1).tolist()
        # From here on a RoI is known by its row among the candidates of all images.
        first = torch.arange(len(assigned), device=assigned.device)[:, None] * assigned.shape[1]
        rows = positives.indices + first, negatives.indices + first
        chosen = [(rows[0][i, :p], rows[1][i, :n]) for i, (p, n) in enumerate(counts)]
        rois = candidates.flatten(0, 1)[torch.cat([part for pair in chosen for part in pair])]
        positive = torch.cat([part for part, _ in chosen])
        owners = assigned.flatten()[positive] - 1
        image = positive.div(assigned.shape[1], rounding_mode="floor")
        is_object = torch.zeros_like(owners, dtype=torch.bool)
        if self.bbox_sampler.add_gt_as_proposals:
            is_object = positive % assigned.shape[1] < places
        matched = image * places + owners
        of_positives = [p for p, _ in counts]
        return [
            SampledRoIs(*parts)
            for parts in zip(
                rois.split([p + n for p, n in counts]),
                owners.split(of_positives),
                objects.rows.flatten(0, 1)[matched].split(of_positives),
                Padded.of(gt_labels).rows.flatten()[matched].split(of_positives),
                is_object.split(of_positives),
                strict=True,
            )
        ]
