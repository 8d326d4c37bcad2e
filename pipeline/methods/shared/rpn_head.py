"""MMDetection's RPN head with targets, losses and proposals of all images at once: a step reads one number.

Legend: B images, A anchors of all levels, K candidates of an image for its proposals.
"""

import torch
from mmcv.ops import nms
from mmdet.core.anchor.utils import anchor_inside_flags
from mmdet.models.builder import HEADS
from mmdet.models.dense_heads import RPNHead
from torch import Tensor

from pipeline.methods.shared.assignment import assign, require_supported, sample
from pipeline.methods.shared.draws import DrawsByStep
from pipeline.methods.shared.padded import Padded, rows_at


@HEADS.register_module()
class BatchedRPNHead(DrawsByStep, RPNHead):
    """`RPNHead` whose training does not loop over images.

    The sampled anchors are those of `RPNHead` or come from the same distribution, and so do the losses, which are those
    of all levels together. Proposals are the same up to rounding inside of NMS: the images of a batch are laid side by
    side, the levels of an image above each other, so that one call suppresses in all of them. Testing is `RPNHead`'s.

    Args:
        kwargs: as `RPNHead`, with a sigmoid. Raises ValueError for an assigner or a sampler that is not supported.
    """

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        if not self.use_sigmoid_cls:
            raise ValueError("loss_cls.use_sigmoid must be true")
        self._last_anchors = None, None
        if self.train_cfg:
            require_supported(self.assigner, self.sampler)

    def forward_train(
        self, x, img_metas, gt_bboxes, gt_labels=None, gt_bboxes_ignore=None, proposal_cfg=None, **kwargs
    ):
        """As `RPNHead.forward_train`; proposals are `Padded`, boxes with scores."""
        outputs = self(x)
        losses = self.loss(*outputs, gt_bboxes, img_metas, gt_bboxes_ignore)
        return (losses, self.proposals(*outputs, img_metas, proposal_cfg)) if proposal_cfg else losses

    def loss(self, cls_scores, bbox_preds, gt_bboxes, img_metas, gt_bboxes_ignore=None):
        """As `RPNHead.loss`, each loss being the sum over levels.

        Only the sampled anchors are looked at: of 268,000 at full size, 256.
        """
        levels = [level.shape[-2:] for level in cls_scores]
        anchors = torch.cat(self._anchors(cls_scores))
        logits = torch.cat([_by_anchor(level, 1)[..., 0] for level in cls_scores], 1)
        deltas = torch.cat([_by_anchor(level, 4) for level in bbox_preds], 1)
        objects = Padded.of(gt_bboxes)
        everywhere = Padded(anchors.expand(len(logits), -1, -1), self._usable(anchors, levels, img_metas))
        ignored = None if gt_bboxes_ignore is None else Padded.of(gt_bboxes_ignore)
        assigned = assign(self.assigner, everywhere, objects, ignored)
        positives, negatives = sample(self.sampler, assigned, self._generator(logits.device, "rpn/"))
        total = (positives.count.clamp(min=1) + negatives.count.clamp(min=1)).sum()
        is_positive = torch.cat([positives.valid, torch.zeros_like(negatives.valid)], 1)
        loss_cls = self.loss_cls(
            rows_at(logits, torch.cat([positives.indices, negatives.indices], 1)).flatten(),
            is_positive.flatten().long(),
            torch.cat([positives.valid, negatives.valid], 1).flatten().float(),
            avg_factor=total,
        )
        sources = everywhere.at(positives.indices)
        owners = rows_at(assigned, positives.indices) - 1
        # Behind the last positive an anchor is its own target, because one of no extent would make a NaN.
        targets = torch.where(positives.valid[..., None], objects.at(owners), sources)
        loss_bbox = self.loss_bbox(
            rows_at(deltas, positives.indices).flatten(0, 1),
            self.bbox_coder.encode(sources.flatten(0, 1), targets.flatten(0, 1)),
            positives.valid.flatten()[:, None].expand(-1, 4).float(),
            avg_factor=total,
        )
        return {"loss_rpn_cls": loss_cls, "loss_rpn_bbox": loss_bbox}

    def _anchors(self, cls_scores):
        """Anchors [a, 4] of each level, the last ones again if the sizes have not changed."""
        sizes, device = tuple(level.shape[-2:] for level in cls_scores), cls_scores[0].device
        if self._last_anchors[0] != (sizes, device):
            self._last_anchors = (sizes, device), self.prior_generator.grid_priors(sizes, device=device)
        return self._last_anchors[1]

    def _usable(self, anchors, levels, img_metas):
        """Which anchors [B, A] of an image are not in its padding, and inside if the border counts."""
        shapes = [(tuple(meta["pad_shape"]), tuple(meta["img_shape"][:2])) for meta in img_metas]
        usable = {}
        for padded, image in dict.fromkeys(shapes):
            flags = torch.cat(self.prior_generator.valid_flags(levels, padded, device=anchors.device))
            usable[padded, image] = anchor_inside_flags(anchors, flags, image, self.train_cfg.allowed_border)
        return torch.stack([usable[shape] for shape in shapes])

    @torch.no_grad()
    def proposals(self, cls_scores, bbox_preds, img_metas, cfg) -> Padded:
        """As `RPNHead.get_bboxes` for each image.

        Args:
            cls_scores, bbox_preds: of `forward`.
            img_metas: of the images.
            cfg: `rpn_proposal`.

        Returns:
            Boxes with their score, rows [B, max_per_img, 5], the best first.
        """
        scores, sources, deltas = zip(
            *(
                _best(_by_anchor(score, 1)[..., 0].sigmoid(), level, _by_anchor(delta, 4), cfg.nms_pre)
                for score, level, delta in zip(cls_scores, self._anchors(cls_scores), bbox_preds, strict=True)
            ),
            strict=True,
        )
        level = torch.cat([torch.full_like(each[0], number) for number, each in enumerate(scores)])
        scores, sources, deltas = torch.cat(scores, 1), torch.cat(sources, 1), torch.cat(deltas, 1)
        boxes = self.bbox_coder.decode(sources.flatten(0, 1), deltas.flatten(0, 1)).view_as(sources)
        for image, meta in zip(boxes, img_metas, strict=True):
            height, width = meta["img_shape"][:2]
            image[:, 0::2].clamp_(min=0, max=width)
            image[:, 1::2].clamp_(min=0, max=height)
        large = (boxes[..., 2:] - boxes[..., :2] > cfg.min_bbox_size).all(-1)
        return suppressed(Padded(boxes, large), scores, level, cfg.nms.iou_threshold, cfg.max_per_img)


def _by_anchor(level: Tensor, numbers: int) -> Tensor:
    """A level's output [B, anchors x numbers, H, W] by anchor: [B, H x W x anchors, numbers]."""
    return level.permute(0, 2, 3, 1).reshape(len(level), -1, numbers)


def _best(scores, anchors, deltas, most):
    """The best `most` anchors of a level in each image, sorted, if there are more: scores, anchors and deltas."""
    if not 0 < most < len(anchors):
        return scores, anchors.expand_as(deltas), deltas
    scores, indices = scores.sort(dim=1, descending=True)
    indices = indices[:, :most]
    return scores[:, :most], anchors[indices], rows_at(deltas, indices)


def suppressed(boxes: Padded, scores: Tensor, level: Tensor, iou_threshold: float, most: int) -> Padded:
    """Non-maximum suppression within each level of each image.

    The only number that the host waits for is how many boxes are left: mmcv's operator returns just these.

    Args:
        boxes: rows [B, K, 4] in [0, ...); invalid ones suppress none.
        scores: [B, K].
        level: [K], a number for what is suppressed separately.
        iou_threshold: of two boxes that overlap more the one with the lower score goes.
        most: boxes to leave to an image.

    Returns:
        Boxes with score, rows [B, min(most, K), 5], the best first.
    """
    images, candidates = scores.shape
    # A box without extent overlaps with nothing. It stays, and is dropped below.
    rows = torch.where(boxes.valid[..., None], boxes.rows, 0.0)
    of_image = torch.arange(images, device=rows.device)
    place = torch.stack(torch.broadcast_tensors(level, of_image[:, None].to(level)), -1).repeat(1, 1, 2)
    apart = rows + place * (rows.max() + 1)
    _, kept = nms(apart.flatten(0, 1), scores.flatten(), iou_threshold)
    image = kept.div(candidates, rounding_mode="floor")
    counts = boxes.valid.flatten()[kept]
    rank = ((image[:, None] == of_image) & counts[:, None]).cumsum(0).gather(1, image[:, None])[:, 0] - 1
    slots = min(most, candidates)
    # What is not wanted goes to a slot behind the others.
    slot = torch.where(counts & (rank < slots), image * slots + rank, images * slots)
    found = torch.cat([rows.flatten(0, 1), scores.flatten()[:, None]], 1)[kept]
    left = found.new_zeros(images * slots + 1, 5).index_copy(0, slot, found)[:-1]
    is_left = counts.new_zeros(images * slots + 1).index_fill(0, slot, True)[:-1]
    return Padded(left.view(images, slots, 5), is_left.view(images, slots))
