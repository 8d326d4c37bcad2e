"""RETAB as a detector of MMDetection: it learns to label training images whose image labels and base masks are known.

The released code trains a classifier, a boundary net and an affinity net one after another. Here they are three heads
of one backbone, trained together. Legend: B images, K classes, h and w cells at stride 8.
"""

from pipeline import compat  # noqa: F401  # must precede mmcv

# isort: split

import numpy as np
import torch
import torch.nn.functional as F
from mmdet.models.builder import DETECTORS, build_backbone
from mmdet.models.detectors import BaseDetector
from torch import Tensor, nn

from pipeline.methods.shared import retab
from pipeline.methods.shared.retab import STRIDE, UNKNOWN


@DETECTORS.register_module()
class Retab(BaseDetector):
    """A classifier whose activation maps are carried along affinities, up to boundaries.

    Args:
        backbone: configuration; three feature maps of stride 8.
        channels: of each of them, before and after it is squeezed.
        num_classes: K.
        sure: as of `retab.rest_labels`.
        train_cfg, test_cfg: not read.
    """

    def __init__(self, backbone, channels, num_classes, sure, train_cfg=None, test_cfg=None, init_cfg=None):
        super().__init__(init_cfg)
        self.num_classes, self.sure = num_classes, sure
        self.backbone = build_backbone(backbone)
        self.classify = nn.Conv2d(channels[-1][0], num_classes, 1, bias=False)
        self.affinity, self.boundary = retab.AffinityHead(channels), retab.BoundaryHead(channels)

    def extract_feat(self, imgs):
        return self.backbone(imgs)

    def forward_dummy(self, img):
        """What MMDetection's tools count the operations of."""
        features = self.extract_feat(img)
        return self.classify(features[-1]), self.affinity(features), self.boundary(features, img.shape[-2:])

    def forward_train(self, img, img_metas, gt_semantic_seg, novel_labels, **_) -> dict:
        """The losses of a batch.

        Args:
            img: [B, 3, H, W], normalised and padded.
            img_metas: of each image, with `img_shape`, that of the part that is no padding.
            gt_semantic_seg: [B, H, W] or [B, 1, H, W], class where it has a mask, 255 elsewhere.
            novel_labels: of each image its classes without masks, integer [n].
        """
        super().forward_train(img, img_metas)
        maps = gt_semantic_seg.flatten(1, -3) if gt_semantic_seg.dim() == 4 else gt_semantic_seg
        features = self.extract_feat(img)
        logits = self.classify(features[-1])
        embedding, boundary = self.affinity(features), self.boundary(features, img.shape[-2:])
        found = [
            self._losses(*each) for each in zip(logits, embedding, boundary, maps, novel_labels, img_metas, strict=True)
        ]
        return {name: torch.stack([losses[name] for losses in found]).mean() for name in found[0]}

    def _losses(self, logits, embedding, boundary, base_map, novel, meta):
        """Those of an image; the part of it that is no padding."""
        height, width = meta["img_shape"][:2]
        h, w = cells(height), cells(width)
        logits, embedding = logits[:, :h, :w], embedding[:, :h, :w]
        base_map, boundary = base_map[:height, :width], boundary[:height, :width]
        novel = torch.as_tensor(novel, device=base_map.device).long()
        shown = base_map.unique()
        target = logits.new_zeros(self.num_classes)
        target[torch.cat([shown[shown != UNKNOWN], novel])] = 1
        small = base_map[::STRIDE, ::STRIDE]
        cams = activations(logits.detach()[novel])
        known = retab.rest_labels(small, cams, novel, self.sure, self.num_classes)
        on_boundary = (boundary.detach()[::STRIDE, ::STRIDE] >= 0) & (small == UNKNOWN)
        known = torch.where(on_boundary, UNKNOWN, known)
        radius = retab.radius_of((h, w))
        pairs = retab.affinity_labels(known, radius, background=self.num_classes)
        affinity = retab.affinities(embedding[None], radius)[0]
        border = retab.boundaries(base_map)
        rest = (base_map != UNKNOWN) & ~border
        return {
            "loss_labels": F.binary_cross_entropy_with_logits(logits.mean((1, 2)), target),
            "loss_affinity": retab.affinity_losses(affinity, *pairs)[-1],
            # Of VOC's two halves, background and foreground, both are base pixels here.
            "loss_boundary": retab.boundary_loss(boundary, border, rest, rest),
        }

    def simple_test(self, img, img_metas, **_) -> list:
        """The class of highest activation [height, width] of each image, at its original size.

        Neither masks nor labels of the image are known here, so nothing is carried along affinities.
        """
        scores = self.classify(self.extract_feat(img)[-1])
        return [label_map(at_original(inside(each, meta), meta)) for each, meta in zip(scores, img_metas, strict=True)]

    def aug_test(self, imgs, img_metas, **_) -> list:
        """As `simple_test`, from the mean over several views of the images."""
        total = None
        for img, metas in zip(imgs, img_metas, strict=True):
            activations = self.classify(self.extract_feat(img)[-1])
            view = [at_original(inside(each, meta), meta) for each, meta in zip(activations, metas, strict=True)]
            total = view if total is None else [one + other for one, other in zip(total, view, strict=True)]
        return [label_map(scores / len(imgs)) for scores in total]

    def labelled(self, views, base_maps, novel_labels) -> list:
        """Pseudo label maps of training images: base masks, elsewhere the best of the image's novel classes or none.

        Args:
            views: (images, metas) of each view, see `pipeline.tasks.semantic.labelling`. Activation maps are summed
                over them, affinities and boundaries are those of the first.
            base_maps: [height, width] of each image, base class where it has a mask, 255 elsewhere.
            novel_labels: [k] of each image.
        """
        features = [self.extract_feat(images) for images, _ in views]
        logits = [self.classify(each[-1]) for each in features]
        embedding = self.affinity(features[0])
        boundary = self.boundary(features[0], views[0][0].shape[-2:])
        found = []
        for place, (base_map, novel) in enumerate(zip(base_maps, novel_labels, strict=True)):
            if not len(novel):
                found.append(base_map.cpu().numpy())
                continue
            meta = views[0][1][place]
            height, width = meta["img_shape"][:2]
            size = cells(height), cells(width)
            seen = [
                F.interpolate(
                    inside(each[place], metas[place])[None, novel].relu(), size, mode="bilinear", align_corners=False
                )[0]
                for each, (_, metas) in zip(logits, views, strict=True)
            ]
            within = boundary[place, :height:STRIDE, :width:STRIDE] < 0
            embedded = embedding[place, :, : size[0], : size[1]]
            maps = carried(activations(sum(seen)), embedded, within, base_map)
            found.append(retab.pseudo_labels(base_map.long(), maps, novel).to(torch.uint8).cpu().numpy())
        return found


def carried(cams: Tensor, embedding: Tensor, within: Tensor, base_map: Tensor) -> Tensor:
    """Maps of background and classes [1 + k, height, width], at the size of the base map; base pixels send nothing.

    Args:
        cams: [k, h, w] activation maps, in [0, 1].
        embedding: [C, h, w].
        within: [h, w] bool, False on boundaries.
        base_map: [height, width].
    """
    size = cams.shape[1:]
    free = F.interpolate((base_map == UNKNOWN)[None, None].to(cams.dtype), size, mode="nearest")[0]
    radius = retab.radius_of(size)
    affinity = retab.affinities(embedding[None], radius)[0]
    maps = retab.propagated(cams * free, affinity, within, radius)[1]
    return F.interpolate(maps[None], base_map.shape, mode="bilinear", align_corners=False)[0]


def activations(logits: Tensor) -> Tensor:
    """Activation maps [k, h, w] in [0, 1]: what is positive, by its largest value."""
    positive = logits.relu()
    return positive / (positive.amax((1, 2), keepdim=True) + retab.EPSILON)


def cells(side: int) -> int:
    """Cells that some pixels lie in."""
    return -(-side // STRIDE)


def inside(scores: Tensor, meta: dict) -> Tensor:
    """The part [C, h, w] of scores that is no padding; a flip is undone."""
    height, width = meta["img_shape"][:2]
    scores = scores[:, : cells(height), : cells(width)]
    return scores.flip(-1) if meta.get("flip") else scores


def at_original(scores: Tensor, meta: dict) -> Tensor:
    """Scores [C, h, w] at the original size of the image."""
    return F.interpolate(scores[None], tuple(meta["ori_shape"][:2]), mode="bilinear", align_corners=False)[0]


def label_map(scores: Tensor) -> np.ndarray:
    """The best class [H, W] of scores [K, H, W]."""
    labels = scores.argmax(0)
    return labels.to(torch.uint8 if len(scores) <= 255 else torch.int64).cpu().numpy()
