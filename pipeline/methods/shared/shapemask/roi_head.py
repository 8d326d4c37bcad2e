"""RoI head of ShapeMask: masks of a few jittered ground-truth boxes in training, of the detections in testing.

Legend: B images, N instances drawn of one, G objects of one, R RoIs of all images.
"""

from dataclasses import dataclass

import torch
from mmdet.core import BitmapMasks, bbox2roi
from mmdet.models.builder import HEADS
from torch import Tensor

from pipeline.methods.shared.padded import Padded
from pipeline.methods.shared.partial_roi_head import EVERY, PartialRoIHead, _scale_factor, scalar
from pipeline.methods.shared.shapemask import geometry


@dataclass(frozen=True)
class Instances:
    """RoIs that a mask is learnt on, those of an image together.

    Attributes:
        rois: [R, 5].
        owners: [R] int64, index of the object in its image.
        valid: [R] bool, False for a place that no object fills.
        counts: how many are of each image.
    """

    rois: Tensor
    owners: Tensor
    valid: Tensor
    counts: list[int]


@HEADS.register_module()
class ShapeMaskRoIHead(PartialRoIHead):
    """Detect objects of all categories and segment them in their outer boxes, by masks of base categories only.

    All instances are forwarded, novel ones too, as in the released code: they count in the batch norm and in no loss.

    Args:
        instances: N.
        few_objects: of an image with fewer than N, 'repeat' them, or 'pad' with zero boxes that are in no loss.
        jitter: standard deviation of the noise on their boxes.
        outer_box: side of an outer box in those of the box.
        stride: of the finest level of the pyramid, which tells the size of the network's input.
        kwargs: as `PartialRoIHead`; 'base_gt' takes jittered ground-truth boxes, 'base_positives' the positive RoIs of
            the box head as they are.
    """

    def __init__(self, instances, few_objects, jitter, outer_box, stride, **kwargs):
        super().__init__(**kwargs)
        self.instances = instances
        self.few_objects = few_objects
        self.jitter = jitter
        self.outer_box = outer_box
        self.stride = stride

    def forward_train(self, x, img_metas, proposal_list, gt_bboxes, gt_labels, *args, **kwargs):
        """As `PartialRoIHead.forward_train`."""
        return super().forward_train(
            x, img_metas, proposal_list, gt_bboxes, gt_labels, *args, objects=gt_bboxes, **kwargs
        )

    def _mask_losses(self, x, sampled, cam_features, gt_masks, gt_is_novel, targets):
        if self.mask_loss_rois == "base_gt":
            losses = self.mask_losses(x, targets["objects"], gt_masks, gt_is_novel)
        else:
            losses = self._losses_of(x, _of_positives(sampled), gt_masks, gt_is_novel)
        positives = sum(len(image.pos_bboxes) for image in sampled)
        self.statistics = {"positive_rois": scalar(positives, x[0])} | self.statistics
        return losses

    def mask_losses(self, x, gt_bboxes, gt_masks, gt_is_novel):
        """Losses of masks by name on jittered ground-truth boxes; statistics of the batch are in `self.statistics`.

        Args:
            x: feature pyramid.
            gt_bboxes, gt_masks, gt_is_novel: as `PartialRoIHead.forward_train`.
        """
        generator = self._generator(x[0].device, "instances/")
        size = self._input_size(x)
        instances = drawn(gt_bboxes, self.instances, self.few_objects, self.jitter, size, generator)
        return self._losses_of(x, instances, gt_masks, gt_is_novel)

    def _losses_of(self, x, instances, gt_masks, gt_is_novel):
        """Losses of masks by name of `Instances`."""
        size = self._input_size(x)
        owners = instances.owners.split(instances.counts)
        is_novel = torch.cat(
            [flags.to(of.device, torch.bool)[of] for flags, of in zip(gt_is_novel, owners, strict=True)]
        )
        in_loss = instances.valid & ~is_novel
        predicted = self._mask_features(x, instances.rois, None)
        frames = geometry.outer(instances.rois[:, 1:], self.outer_box, *size)
        coarse, fine = self._targets(gt_masks, instances, frames, in_loss)
        self.statistics = {"mask_loss_rois": in_loss.sum()}
        return self.mask_head.loss(predicted, coarse, fine, in_loss)

    def _targets(self, gt_masks, instances, frames, in_loss):
        """Masks in the frames at the sizes of coarse and fine mask, float32 0/1; of RoIs that are in no loss zero."""
        head, found = self.mask_head, ([], [])
        of_image = zip(gt_masks, instances.owners.split(instances.counts), frames.split(instances.counts), strict=True)
        for masks, owners, boxes in of_image:
            bitmaps = masks if isinstance(masks, BitmapMasks) else masks.to_bitmap()
            bitmaps = torch.from_numpy(bitmaps.masks).to(boxes.device, non_blocking=True)
            for crops, cells in zip(found, (head.cells, head.cells * head.upsampling), strict=True):
                crops.append(geometry.mask_targets(bitmaps, owners, boxes, cells) >= 0.5)
        # Whatever stands in for the masks of novel objects is wiped before anything can see it.
        return tuple((torch.cat(crops) & in_loss[:, None, None]).float() for crops in found)

    def segment(self, x, boxes, labels, img_metas, rescale):
        """Masks by class of each image, of boxes with score [D, 5] that were detected with labels [D]."""
        return self._segment(x, boxes, labels, None, img_metas, rescale)

    def _input_size(self, x):
        """Height and width of the network's input, padding included, as boxes are clipped to in the released code."""
        return tuple(side * self.stride for side in x[0].shape[-2:])

    def _mask_features(self, x, rois, cam, rows=EVERY):
        """Run the mask head on boxes [R, 5]: what `ShapeMaskHead.forward` returns, in their outer boxes."""
        boxes = rois[rows][:, 1:]
        frames = geometry.outer(boxes, self.outer_box, *self._input_size(x))
        crops = self.mask_roi_extractor(
            x[: self.mask_roi_extractor.num_inputs], torch.cat([rois[rows][:, :1], frames], 1)
        )
        return self.mask_head(crops, boxes, frames)

    def _segment(self, x, boxes, labels, cams, img_metas, rescale):
        """As `PartialRoIHead._segment`; masks are pasted into the outer boxes."""
        scales = [_scale_factor(meta) for meta in img_metas]
        found = [
            image[:, :4] * image.new_tensor(scale) if rescale else image[:, :4]
            for image, scale in zip(boxes, scales, strict=True)
        ]
        rois = bbox2roi(found)
        if not len(rois):
            return [self._no_masks() for _ in found]
        counts = [len(image) for image in found]
        logits = self.detection_masks(x, rois, torch.cat(labels), None).split(counts)
        frames = geometry.outer(rois[:, 1:], self.outer_box, *self._input_size(x)).split(counts)
        return [
            self.mask_head.get_seg_masks(*image, self.test_cfg, meta["ori_shape"], scale, rescale)
            if len(image[0])
            else self._no_masks()
            for image, meta, scale in zip(zip(logits, frames, labels, strict=True), img_metas, scales, strict=True)
        ]

    def aug_test_mask(self, feats, img_metas, det_bboxes, det_labels):
        """Refuse: the outer boxes of augmented views are clipped differently, so their masks have other frames."""
        raise NotImplementedError(f"{type(self).__name__} has no test-time augmentation; nor has the released code")


def drawn(gt_bboxes, number, few_objects, jitter, size, generator=None) -> Instances:
    """Draw objects of each image in random order, and jitter their boxes within the image.

    Args:
        gt_bboxes: [G, 4] per image; one without objects has no instances.
        number: N.
        few_objects, jitter: as of `ShapeMaskRoIHead`.
        size: height and width of the network's input.
        generator: source of the draws, on the device of the boxes; None for the global one.
    """
    objects, device = Padded.of(gt_bboxes), gt_bboxes[0].device
    numbers = torch.rand(objects.valid.shape, generator=generator, device=device)
    order = numbers.masked_fill(~objects.valid, 2.0).argsort(1)
    place = torch.arange(number, device=device)
    there = objects.valid.sum(1, keepdim=True)
    owners = order.gather(1, place % there.clamp(min=1))  # [B, N]
    boxes = objects.at(owners)
    noise = jitter * torch.randn(boxes.shape, generator=generator, device=device)
    boxes = geometry.clipped(geometry.jittered(boxes, noise), *size)
    valid = (place < there) | (few_objects == "repeat")
    boxes = boxes * valid[..., None]
    counts = [number if len(image) else 0 for image in gt_bboxes]
    return Instances(
        bbox2roi([image[:count] for image, count in zip(boxes, counts, strict=True)]),
        torch.cat([image[:count] for image, count in zip(owners, counts, strict=True)]),
        torch.cat([image[:count] for image, count in zip(valid, counts, strict=True)]),
        counts,
    )


def _of_positives(sampled) -> Instances:
    """All positive RoIs of the box head."""
    return Instances(
        bbox2roi([image.pos_bboxes for image in sampled]),
        torch.cat([image.pos_assigned_gt_inds for image in sampled]),
        torch.cat([torch.ones_like(image.pos_is_gt, dtype=torch.bool) for image in sampled]),
        [len(image.pos_bboxes) for image in sampled],
    )
