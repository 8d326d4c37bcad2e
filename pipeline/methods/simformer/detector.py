"""SimFormer as a detector of MMDetection: batches of label maps in, label maps out.

Legend: B images, K classes, H and W pixels of the padded images.
"""

from pipeline import compat  # noqa: F401  # must precede mmcv

# isort: split

import numpy as np
import torch
import torch.nn.functional as F
from mmdet.models.builder import DETECTORS, build_backbone, build_head
from mmdet.models.detectors import BaseDetector
from torch import Tensor

from pipeline.errors import ExperimentError
from pipeline.methods.simformer import head  # noqa: F401  # registers its type
from pipeline.methods.simformer.targets import targets_of

LARGEST = 2**26  # scores at the size of a photograph, at a time: 256 MB


@DETECTORS.register_module()
class SimFormer(BaseDetector):
    """MaskFormer with the losses of weak-shot segmentation.

    Args:
        backbone, panoptic_head: configurations; the names are MMDetection's.
        train_cfg, test_cfg: not read.
    """

    def __init__(self, backbone, panoptic_head, train_cfg=None, test_cfg=None, init_cfg=None):
        super().__init__(init_cfg)
        self.backbone = build_backbone(backbone)
        self.panoptic_head = build_head(panoptic_head)

    def extract_feat(self, imgs):
        return self.backbone(imgs)

    def forward_dummy(self, img):
        """What MMDetection's tools count the operations of."""
        return self.panoptic_head(self.extract_feat(img))

    def forward_train(self, img, img_metas, gt_semantic_seg, novel_labels=None, **_) -> dict:
        """The losses of a batch.

        An item is an image, or an image and its reference: then tensors have a dimension more and lists are of lists.

        Args:
            img: [B, 3, H, W] or [P, 2, 3, H, W], normalised and padded.
            img_metas: of each image, with `img_shape`, that of the part that is no padding, and for pairs
                `novel_classes`, the classes of the direction that have no masks.
            gt_semantic_seg: [B, H, W] or [B, 1, H, W] or [P, 2, H, W], class where it has a mask, 255 elsewhere.
            novel_labels: of each image its classes without masks, integer [n].

        Raises:
            ExperimentError: the images are no pairs, but the losses are of pairs.
        """
        if img.dim() == 5:
            img, gt_semantic_seg = img.flatten(0, 1), gt_semantic_seg.flatten(0, 1)
            img_metas = [meta for metas in img_metas for meta in metas]
            novel_labels = novel_labels and [labels for two in novel_labels for labels in two]
        if gt_semantic_seg.dim() == 4:
            gt_semantic_seg = gt_semantic_seg[:, 0]
        novel = ()
        if self.panoptic_head.pixel_pairs is not None:
            if len(img) % 2:
                raise ExperimentError(
                    f"{len(img)} images are no pairs; with `pairs` a batch is of images and references"
                )
            novel = tuple(int(label) for label in img_metas[0]["novel_classes"])
        super().forward_train(img, img_metas)
        targets = targets_of(gt_semantic_seg, novel_labels, self.panoptic_head.num_classes)
        predictions = self.panoptic_head(self.extract_feat(img))
        return self.panoptic_head.loss(predictions, targets, inside(img_metas, img), novel)

    def simple_test(self, img, img_metas, **_) -> list:
        """A label map of each image, uint8 (int64 of more than 255 classes) [height, width] at its original size."""
        padded = self._padded_scores(img)
        return [best_classes(scores, meta) for scores, meta in zip(padded, img_metas, strict=True)]

    def aug_test(self, imgs, img_metas, **_) -> list:
        """As `simple_test`, from scores averaged over several views of the images."""
        total = None
        for img, metas in zip(imgs, img_metas, strict=True):
            scores = self.class_scores(img, metas)
            total = scores if total is None else [one + other for one, other in zip(total, scores, strict=True)]
        return [label_map(scores / len(imgs)) for scores in total]

    def class_scores(self, img, img_metas) -> list:
        """Scores [K, height, width] of each image at its original size; a flip is undone.

        The scores of the padded image are cut to what is no padding, then resized: in this order, before the arg-max.
        """
        return [original(scores, meta) for scores, meta in zip(self._padded_scores(img), img_metas, strict=True)]

    def _padded_scores(self, img):
        predictions = self.panoptic_head(self.extract_feat(img), last=True)
        return self.panoptic_head.class_scores(predictions, img.shape[-2:])


def original(scores: Tensor, meta: dict) -> Tensor:
    """Scores [K, H, W] of a padded image at its original size."""
    height, width = meta["img_shape"][:2]
    size = tuple(int(side) for side in meta["ori_shape"][:2])
    scores = F.interpolate(scores[None, :, :height, :width], size, mode="bilinear", align_corners=False)[0]
    return scores.flip(-1) if meta.get("flip") else scores


def label_map(scores: Tensor) -> np.ndarray:
    """The best class [H, W] of scores [K, H, W]."""
    return _numbers(scores.argmax(0), len(scores))


def best_classes(scores: Tensor, meta: dict) -> np.ndarray:
    """`label_map` of `original`, some classes at a time: a large photograph has room for few at its own size."""
    height, width = meta["ori_shape"][:2]
    labels, parts = None, scores.split(max(1, LARGEST // int(height * width)))
    for part in parts:
        values, found = original(part, meta).max(0)
        if labels is None:
            best, labels, begun = values, found, len(part)
            continue
        better = values > best
        best, labels = torch.where(better, values, best), torch.where(better, found + begun, labels)
        begun += len(part)
    return _numbers(labels, len(scores))


def _numbers(labels, num_classes):
    return labels.to(torch.uint8 if num_classes <= 255 else torch.int64).cpu().numpy()


def inside(img_metas, img: Tensor) -> Tensor:
    """[B, H, W] bool, the pixels of the images that are no padding."""
    height, width = img.shape[-2:]
    sizes = torch.tensor([list(meta["img_shape"][:2]) for meta in img_metas]).to(img.device)
    rows = torch.arange(height, device=img.device) < sizes[:, :1]
    columns = torch.arange(width, device=img.device) < sizes[:, 1:]
    return rows[:, :, None] & columns[:, None]
