"""RoI head of a Mask R-CNN that learns masks from base categories and detects all, with or without the CAM.

As it is, it is the baseline of Table 2 and the baseline with CAM. A method that adds a branch overrides `_joined`,
which says what else enters the mask head, and `_further_losses`; boxes, sampled RoIs and mask loss stay the same, so
that a table compares what enters the mask head and nothing else.

Legend: P positive RoIs of all images, H and W cells of a mask target.
"""

from dataclasses import dataclass

import numpy as np
import torch
from mmdet.core import bbox2result, bbox2roi, bbox_mapping, merge_aug_masks
from mmdet.models.builder import HEADS
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm

from pipeline.methods.shared import mask_targets
from pipeline.methods.shared.cam import min_max_normalise, resize_map
from pipeline.methods.shared.sampled_roi_head import SampledRoIHead

EVERY = slice(None)  # rows


@dataclass(frozen=True)
class Positives:
    """The positive RoIs of a batch.

    Attributes:
        sampled: `SampledRoIs` of each image.
        is_novel: [P] bool.
        masks: [P, H, W] bool, all False for novel RoIs.
        cam: [P, 1, h, w], not normalised; None without one.
        features: what `PartialRoIHead._mask_features` returned; its masks may be those of RoIs in the mask loss alone.
        gt_masks: masks per image, in the order of the boxes; those of novel objects are placeholders.
    """

    sampled: list
    is_novel: Tensor
    masks: Tensor
    cam: Tensor | None
    features: dict[str, Tensor]
    gt_masks: list


@HEADS.register_module()
class PartialRoIHead(SampledRoIHead):
    """Detect objects of all categories and segment them with masks of base categories only.

    Args:
        mask_roi_size: height and width of the RoI features of the mask head.
        mask_loss_rois: 'base_gt' base RoIs that are ground-truth boxes; 'base_positives' all positive base RoIs (D22).
        use_cam: add each RoI's normalised CAM to the mask head's input.
        cam_frame: box whose CAM a detection gets: its 'proposal' or the 'refined' box (D25).
        cam_normalise: min-max 'after_upsample' to each head's size or 'before_upsample' (D24).
        detach_mask_cam: stop the mask loss at the CAM (D4).
        kwargs: as `SampledRoIHead`.
    """

    def __init__(
        self,
        mask_roi_size,
        mask_loss_rois,
        use_cam=False,
        cam_frame="proposal",
        cam_normalise="after_upsample",
        detach_mask_cam=False,
        **kwargs,
    ):
        super().__init__(**kwargs)
        if self.share_roi_extractor:
            raise ValueError("mask_roi_extractor is missing: box and mask head pool features of different sizes")
        self.mask_roi_size = mask_roi_size
        self.mask_loss_rois = mask_loss_rois
        self.use_cam = use_cam
        self.cam_frame = cam_frame
        self.cam_normalise = cam_normalise
        self.detach_mask_cam = detach_mask_cam
        self.statistics = {}
        # A batch norm in the mask head lets every RoI count, in the loss or not.
        self._rois_mix = any(isinstance(module, _BatchNorm) for module in self.mask_head.modules())

    # Training

    def forward_train(
        self,
        x,
        img_metas,
        proposal_list,
        gt_bboxes,
        gt_labels,
        gt_bboxes_ignore=None,
        gt_masks=None,
        gt_is_novel=None,
        **targets,
    ):
        """Compute the losses of a batch.

        Args:
            x: feature pyramid, list of [N, C, h, w].
            img_metas, proposal_list, gt_bboxes, gt_labels, gt_bboxes_ignore: as `SampledRoIHead`.
            gt_masks: masks per image, in the order of the boxes; those of novel objects are placeholders, never used.
            gt_is_novel: [G] bool per image, in the order of the boxes.
            targets: further ones, for `_further_losses`.

        Returns:
            Losses by name. Statistics of the batch are in `self.statistics`.

        Raises:
            ValueError: the novel flags are missing or do not match the boxes.
        """
        _check_flags(gt_bboxes, gt_is_novel)
        sampled = self._sample(proposal_list, gt_bboxes, gt_labels, gt_bboxes_ignore)
        rois = bbox2roi([result.bboxes for result in sampled])
        box = self._bbox_forward(x, rois)
        box_targets = self.bbox_head.get_targets(sampled, gt_bboxes, gt_labels, self.train_cfg)
        result = self.bbox_head.loss(box["cls_score"], box["bbox_pred"], rois, *box_targets)
        positive_features = _positive_rows(box["cam_features"], sampled)
        result.update(self._mask_losses(x, sampled, positive_features, gt_masks, gt_is_novel, targets))
        return result

    def _bbox_forward(self, x, rois):
        features = self.bbox_roi_extractor(x[: self.bbox_roi_extractor.num_inputs], rois)
        cls_score, bbox_pred, cam_features = self.bbox_head.forward_with_features(features)
        return {"cls_score": cls_score, "bbox_pred": bbox_pred, "bbox_feats": features, "cam_features": cam_features}

    def _mask_losses(self, x, sampled, cam_features, gt_masks, gt_is_novel, targets):
        rois = bbox2roi([result.pos_bboxes for result in sampled])
        labels = torch.cat([result.pos_gt_labels for result in sampled])
        is_novel = torch.cat(
            [
                flags.to(rois.device, torch.bool)[result.pos_assigned_gt_inds]
                for flags, result in zip(gt_is_novel, sampled, strict=True)
            ]
        )
        in_loss = ~is_novel
        if self.mask_loss_rois == "base_gt":
            in_loss = in_loss & torch.cat([result.pos_is_gt for result in sampled]).bool()
        cam = self.bbox_head.activation_maps(cam_features, labels) if self.use_cam else None
        rows = EVERY if self._rois_mix else needed(in_loss)
        features = self._mask_features(x, rois, cam, rows)
        # Whatever stands in for the masks of novel objects is wiped before anything can see it.
        masks = self._mask_targets(sampled, gt_masks, self.train_cfg.mask_size) & ~is_novel[:, None, None]
        result = self.mask_head.loss(features["mask_pred"], masks[rows], in_loss[rows])
        self.statistics = {"positive_rois": scalar(len(is_novel), is_novel), "mask_loss_rois": in_loss.sum()}
        positives = Positives(sampled, is_novel, masks, cam, features, gt_masks)
        return result | self._further_losses(positives, **targets)

    def _further_losses(self, positives):
        """Losses by name beside box and mask losses; `forward_train` passes on its further targets."""
        return {}

    def _mask_targets(self, sampled, gt_masks, size):
        """Crop the objects' masks to the positive RoIs: [P, size, size] bool."""
        return mask_targets.crop(
            [result.pos_bboxes for result in sampled],
            [result.pos_assigned_gt_inds for result in sampled],
            gt_masks,
            size,
        )

    def _prior(self, cam, *sizes):
        """Upsample a CAM step by step through `sizes` and normalise it to [0, 1].

        Returns:
            Map [R, 1, size, size] and [R] bool, whether it says anything.
        """
        if self.cam_normalise == "before_upsample":
            cam, has_prior = min_max_normalise(cam)
        for size in sizes:
            cam = resize_map(cam, size)
        if self.cam_normalise == "after_upsample":
            cam, has_prior = min_max_normalise(cam)
        return cam, has_prior

    # Both

    def _mask_features(self, x, rois, cam, rows=EVERY):
        """Run the mask head on RoIs.

        Args:
            x: feature pyramid.
            rois: [R, 5].
            cam: [R, 1, h, w] of the box head, not normalised; None if nothing uses it.
            rows: the M of the RoIs whose masks are wanted, an index or a slice.

        Returns:
            'mask_pred' [M, 1, H, W] logits, and what `_joined` keeps.
        """
        features = self.mask_roi_extractor(x[: self.mask_roi_extractor.num_inputs], rois[rows])
        prior = None
        if self.use_cam:
            prior, _ = self._prior((cam.detach() if self.detach_mask_cam else cam)[rows], self.mask_roi_size)
        joined, kept = self._joined(x, rois, features, rows)
        return kept | {"mask_pred": self.mask_head(features, prior, joined)}

    def _joined(self, x, rois, features, rows):
        """What joins the RoI features in the mask head, or None, and by name what `_further_losses` is to find.

        `features` and what joins them are of the `rows` of `rois` whose masks are wanted; further losses may be of all.
        """
        return None, {}

    def _refined_cam(self, x, rois, labels=None):
        """Compute the CAM on given boxes; without labels, of the best-scored foreground class."""
        if not self.use_cam:
            return None
        box = self._bbox_forward(x, rois)
        if labels is None:
            labels = box["cls_score"][:, :-1].argmax(1)
        return self.bbox_head.activation_maps(box["cam_features"], labels)

    def forward_dummy(self, x, proposals):
        """Run all layers on stand-in proposals [R, 4], for counting operations.

        The detector passes noise; its corners are put in order, because RoIAlign refuses boxes of negative size.
        """
        return super().forward_dummy(x, proposals.view(-1, 2, 2).sort(dim=1).values.flatten(1))

    def _mask_forward(self, x, rois):
        return self._mask_features(x, rois, self._refined_cam(x, rois))

    # Testing

    def simple_test(self, x, proposal_list, img_metas, proposals=None, rescale=False):
        """Detect and segment a batch of images.

        Args:
            x: feature pyramid.
            proposal_list: proposals [n, 5] per image.
            img_metas: as `StandardRoIHead`.
            rescale: give boxes and masks in the original image.

        Returns:
            Per image (boxes per class, masks per class) in MMDetection's format.
        """
        detections = self.detect(x, proposal_list, img_metas, rescale)
        boxes, labels, cams = zip(*detections, strict=True)
        masks = self._segment(x, boxes, labels, cams, img_metas, rescale)
        found = [bbox2result(b, c, self.bbox_head.num_classes) for b, c in zip(boxes, labels, strict=True)]
        return list(zip(found, masks, strict=True))

    def _segment(self, x, boxes, labels, cams, img_metas, rescale):
        """Return each image's masks by class."""
        frames = [
            image_boxes[:, :4] * image_boxes.new_tensor(_scale_factor(meta)) if rescale else image_boxes[:, :4]
            for image_boxes, meta in zip(boxes, img_metas, strict=True)
        ]
        rois = bbox2roi(frames)
        if len(rois) == 0:
            return [self._no_masks() for _ in frames]
        logits = self.detection_masks(x, rois, torch.cat(labels), torch.cat(cams) if self.use_cam else None)
        return [
            self.mask_head.get_seg_masks(
                image_logits, frame, image_labels, self.test_cfg, meta["ori_shape"], _scale_factor(meta), rescale
            )
            if len(frame)
            else self._no_masks()
            for image_logits, frame, image_labels, meta in zip(
                logits.split([len(frame) for frame in frames]), frames, labels, img_metas, strict=True
            )
        ]

    def _no_masks(self):
        return [[] for _ in range(self.mask_head.num_classes)]

    def detect(self, x, proposal_list, img_metas, rescale):
        """Detect objects.

        Returns:
            Per image: boxes with score [D, 5], labels [D], and the CAM [D, 1, h, w] of the proposal that each came from
            for the class it was given (None if the mask head does not use it).
        """
        rois = bbox2roi(proposal_list)
        box = self._bbox_forward(x, rois)
        counts = [len(proposals) for proposals in proposal_list]
        detections = []
        for image, (image_rois, scores, deltas, features) in enumerate(
            zip(
                *(t.split(counts) for t in (rois, box["cls_score"], box["bbox_pred"], box["cam_features"])), strict=True
            )
        ):
            meta = img_metas[image]
            boxes, labels, rows = self.bbox_head.detect(
                image_rois, scores, deltas, meta["img_shape"], _scale_factor(meta), rescale, self.test_cfg
            )
            cam = self.bbox_head.activation_maps(features[rows], labels) if self.use_cam else None
            detections.append((boxes, labels, cam))
        return detections

    def detection_masks(self, x, rois, labels, proposal_cams):
        """Predict mask logits [D, 1, H, W] of detections given in network-input pixels."""
        cam = self._refined_cam(x, rois, labels) if self.cam_frame == "refined" else proposal_cams
        return self._mask_features(x, rois, cam)["mask_pred"]

    def aug_test_mask(self, feats, img_metas, det_bboxes, det_labels):
        """Average masks over augmented views; each view's CAM is computed on the merged box in that view."""
        if det_bboxes.shape[0] == 0:
            return self._no_masks()
        views = []
        for x, (meta,) in zip(feats, img_metas, strict=True):
            boxes = bbox_mapping(
                det_bboxes[:, :4], meta["img_shape"], meta["scale_factor"], meta["flip"], meta["flip_direction"]
            )
            rois = bbox2roi([boxes])
            logits = self._mask_features(x, rois, self._refined_cam(x, rois, det_labels))["mask_pred"]
            views.append(logits.sigmoid().cpu().numpy())
        masks = merge_aug_masks(views, img_metas, self.test_cfg)
        return self.mask_head.get_seg_masks(
            masks, det_bboxes, det_labels, self.test_cfg, img_metas[0][0]["ori_shape"], det_bboxes.new_ones(4), False
        )

    def onnx_export(self, *args, **kwargs):
        """Refuse: the CAM of a detection needs the index of its proposal, which the ONNX NMS does not give."""
        raise NotImplementedError(
            f"{type(self).__name__} cannot be exported to ONNX: the NMS there does not tell which "
            "proposal a detection comes from"
        )


def _check_flags(gt_bboxes, gt_is_novel):
    if gt_is_novel is None:
        raise ValueError(
            "gt_is_novel is missing: the training pipeline must collect it (PartialCocoDataset gives "
            "one flag per object)"
        )
    for boxes, flags in zip(gt_bboxes, gt_is_novel, strict=True):
        if len(boxes) != len(flags):
            raise ValueError(f"gt_is_novel has {len(flags)} flags for {len(boxes)} boxes of an image")


def _positive_rows(features: Tensor, sampled) -> Tensor:
    """Select the positives' rows from features of all sampled RoIs: per image positives come first, then negatives."""
    images = features.split([len(result.bboxes) for result in sampled])
    return torch.cat([rows[: len(result.pos_bboxes)] for rows, result in zip(images, sampled, strict=True)])


def needed(chosen: Tensor) -> Tensor | slice:
    """Return the rows to compute where nothing reads those that are not `chosen` ([R] bool).

    On a CPU, where each costs, those that are; on a GPU every row: the host would wait for it to learn which they are.
    """
    if chosen.device.type != "cpu":
        return EVERY
    return torch.from_numpy(np.flatnonzero(chosen.numpy()))


def scalar(value: float, like: Tensor) -> Tensor:
    """Put a number on a tensor's device without a copy from the host."""
    return torch.full((), value, device=like.device)


def _scale_factor(meta) -> np.ndarray:
    """Return an image's scale as (w, h, w, h), also where a pipeline stored one number."""
    return np.broadcast_to(np.asarray(meta["scale_factor"], dtype=np.float32), 4).copy()
