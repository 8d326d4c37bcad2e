"""Compare Mask^X R-CNN with numbers of its authors' network builders (`tests/golden_comparison/maskx/README.md`).

Everything is read from the files: values, numbers of RoIs, classes and layers, widths. The released code picks the
polygon of a RoI by the overlap of boxes among all instances, novel ones too; that rule is followed here only to see
that its numbers are understood, training takes the assigned object. Where no RoI counts, the released code lets one of
the background stand in with nothing to learn; here there is none, and the loss is zero all the same.
"""

from pipeline import compat  # noqa: F401  # must precede mmcv

# isort: split

import logging
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from mmcv import ConfigDict
from mmdet.core import PolygonMasks, bbox_overlaps
from mmdet.models import build_head

from pipeline import methods
from pipeline.errors import ExperimentError
from pipeline.methods.maskx import released_checkpoint as released
from pipeline.methods.maskx.mask_head import WeightTransfer
from pipeline.methods.shared import mask_targets
from pipeline.methods.shared.golden import Check, Fixture, fixture_files, load_arrays, read_json
from pipeline.methods.shared.sampled_roi_head import SampledRoIs
from pipeline.methods.shared.sizes import Sizes

VALUE, GRADIENT = 1e-5, 1e-4  # of an array's largest absolute value
LARGE = 10**6  # pixels, for images whose size no file tells
INITIALISATIONS = 40


def verify(directory: Path) -> Iterator[Check]:
    """Check every fixture in a directory.

    Args:
        directory: holds fixtures (`*.npz`, `*.json`), all or some; `head_grads.npz` needs `head.npz` beside it.

    Yields:
        One result per array.

    Raises:
        ExperimentError: there is no fixture, an unknown one, or one that cannot be read or lacks an array.
    """
    for file in fixture_files(directory):
        if file.stem not in FIXTURES:
            raise ExperimentError(f"{file}: unknown fixture; known are {', '.join(FIXTURES)}")
        arrays = load_arrays(file) if file.suffix == ".npz" else {"content": read_json(file, dict)}
        fixture = Fixture(file.name, arrays, file.parent)
        with torch.random.fork_rng():
            torch.manual_seed(0)
            FIXTURES[file.stem](fixture)
        if file.suffix == ".npz":
            fixture.tell_unread()
        yield from fixture.checks


def _transfer(f):
    box = _describing(f["cls_score_w"], f["bbox_pred_w"])
    vectors = box.class_vectors()
    f.close("class_embed", vectors, VALUE)
    for variant in [name.removeprefix("mask_w_") for name in f.arrays if name.startswith("mask_w_")]:
        layers, _, activation = variant.partition("_")
        transfer = WeightTransfer(
            vectors.shape[1], f.expected(f"mask_w_{variant}").shape[1], int(layers), activation or "leaky"
        )
        _fill(transfer, "mask_head.transfer.", f, f"param_{layers}.", int(layers))
        weights = transfer(vectors)[..., None, None]
        f.close(f"mask_w_{variant}", weights, VALUE)
        named = _blobs(transfer, "mask_head.transfer.", int(layers))
        gradients = torch.autograd.grad((f["upstream"] * weights).sum(), list(named.values()))
        for blob, gradient in zip(named, gradients, strict=True):
            f.close(f"grad_{variant}.{blob}", gradient, GRADIENT)


def _head(f):
    head, step = _head_step(f, f)
    mask_head, features = head.mask_head, f["roi_feats"]
    vectors = head.bbox_head.class_vectors(head.transfer_from, head.detach_weights)
    with torch.no_grad():
        trunk = mask_head.features(features)
        f.close("trunk", trunk, VALUE)
        f.close("predicted_mask_w", mask_head.transfer(vectors)[..., None, None], VALUE)
        f.close("logits", _every_class(mask_head, features, vectors), VALUE)
        if "mlp_logits" in f.arrays:
            common = mask_head.mlp(trunk.flatten(1)).view(len(trunk), 1, *trunk.shape[-2:])
            f.close("mlp_logits", common, VALUE)
        mask_head.mlp = None
        f.close("fcn_logits", _every_class(mask_head, features, vectors), VALUE)
    f.close("loss_mask", step["loss"], VALUE)
    detector = [head.bbox_head.fc_cls.weight, head.bbox_head.fc_reg.weight]
    reached = torch.autograd.grad(step["loss"], detector, allow_unused=True)
    f.equal("det_weight_has_grad", np.array([gradient is not None for gradient in reached]))


def _head_grads(f):
    path = f.directory / "head.npz"
    if not path.exists():
        raise ExperimentError(f"{path}: no such file; {f.name} holds gradients of what is in it: put it there")
    head, step = _head_step(Fixture(path.name, load_arrays(path), f.directory), f)
    named = _blobs(head.mask_head, "mask_head.")
    gradients = torch.autograd.grad(step["loss"], [step["roi_feats"], *named.values()])
    f.close("grad_roi_feats", gradients[0], GRADIENT)
    for blob, gradient in zip(named, gradients[1:], strict=True):
        f.close(f"grad.{blob}", gradient, GRADIENT)


def _every_class(mask_head, features, vectors):
    """Logits [P, K, H, W], which training never computes."""
    maps = [mask_head(features, torch.full((len(features),), label), vectors) for label in range(len(vectors))]
    return torch.cat(maps, 1)


def _head_step(f, wanted):
    """The RoI head with a file's weights, and a training pass from RoI features to the loss by the code that trains."""
    features = f["roi_feats"].requires_grad_()
    classes, width = f.expected("cls_score_w").shape
    head = _roi_head(
        box={"num_classes": classes, "fc_out_channels": width},
        mask={
            "in_channels": features.shape[1],
            "conv_out_channels": f.expected("param.conv5_mask_w").shape[1],
            "num_convs": _layers(f.arrays, r"param\._\[mask\]_fcn(\d+)_w"),
            "roi_feat_size": features.shape[-1],
            "described_by": f.expected("param.bbox2mask_mlp_l1_w").shape[1],
            "mlp_layers": int("param.mask_mlp_logits_raw_w" in f.arrays),
        },
    )
    _fill(head.mask_head, "mask_head.", f)
    _describe(head.bbox_head, f["cls_score_w"], f["bbox_pred_w"])
    # The class of a RoI is the channel that has anything to learn.
    side = 2 * features.shape[-1]
    targets = f["masks_int32"].view(len(features), classes, side, side)
    of_class = (targets >= 0).flatten(2).any(2)
    labels, counts = of_class.int().argmax(1), of_class.any(1)
    cells = targets[torch.arange(len(features)), labels] > 0
    loss, flags, _ = _loss(head, features, labels, cells, ~counts)
    of_loss = torch.where(flags[:, None, None] & counts[:, None, None], cells, False)
    assembled = torch.full_like(targets, -1)
    assembled[counts, labels[counts]] = of_loss[counts].to(targets.dtype)
    if f is wanted:
        f.equal("masks_int32", assembled.flatten(1))
    return head, {"loss": loss, "roi_feats": features}


class _Given(torch.nn.Module):
    """A RoI extractor whose features are known; the left side of a RoI is its number."""

    num_inputs = 0

    def __init__(self, features):
        super().__init__()
        self.features = features

    def forward(self, x, rois):
        return self.features[rois[:, 1].long()]


def _loss(head, features, labels, cells, novel):
    """The mask loss of RoIs with known features, and for each whether it is in it."""
    numbers = torch.arange(len(features))
    boxes = torch.stack([numbers, 0 * numbers, numbers + 1, 0 * numbers + 1], 1).float()
    sampled = [SampledRoIs(boxes, numbers, boxes, labels, torch.zeros_like(novel))]
    head.mask_roi_extractor = _Given(features)
    head._mask_targets = lambda *arguments: cells
    seen, loss = {}, head.mask_head.loss

    def watched(logits, targets, in_loss):
        seen.update(in_loss=in_loss, targets=targets)
        return loss(logits, targets, in_loss)

    head.mask_head.loss = watched
    try:
        found = head._mask_losses([], sampled, numbers, [None], [novel], {})["loss_mask"]
    finally:
        del head.mask_head.loss
    in_loss = torch.zeros_like(novel)
    in_loss[~novel] = seen["in_loss"]  # others are not even computed on a CPU
    return found, in_loss, seen["targets"]


def _targets(f):
    labels, kept = f["labels"].long(), f["labels_to_keep"].long()
    has_mask = torch.isin(labels, kept)
    f.equal("roi_has_mask", has_mask.int())
    rois = f["rois"][has_mask]
    scaled = torch.cat([torch.zeros(len(rois), 1), rois * f["im_scale"]], 1)
    f.close("mask_rois", scaled, VALUE)
    # The released choice of a polygon: of all objects, by the boxes of polygons, whose sides count one pixel more. It
    # may be that of a novel object; ours is the assigned object's, which is another where `cross_roi` is.
    of_object = f["gt_labels"].long()
    around = torch.tensor(f.expected("gt_polygons").reshape(len(of_object), -1, 2))
    around = torch.cat([around.amin(1), around.amax(1)], 1)
    more = torch.tensor([0, 0, 1, 1])
    overlaps = bbox_overlaps(rois + more, around + more)
    masks = PolygonMasks([[polygon] for polygon in f.expected("gt_polygons").astype(np.float64)], LARGE, LARGE)
    side = f.expected("cross_target").shape[-1]
    cells = mask_targets.crop([rois], [overlaps.argmax(1)], [masks], side)
    channels = f.expected("masks_int32").shape[1] // side**2
    every = torch.full((len(rois), channels, side, side), -1, dtype=torch.int8)
    every[torch.arange(len(rois)), labels[has_mask]] = cells.to(torch.int8)
    f.equal("masks_int32", every.flatten(1))
    # Nothing of a kept class: no channel of any RoI has anything to learn, and the loss is zero and has a graph.
    head = _roi_head(box={"num_classes": 2}, mask={"roi_feat_size": side // 2, "mlp_layers": 0})
    features = torch.randn(2, head.mask_head.in_channels, side // 2, side // 2)
    every_novel = torch.ones(2, dtype=torch.bool)
    loss, in_loss, _ = _loss(head, features, torch.arange(2), torch.ones(2, side, side).bool(), every_novel)
    f.equal("none_masks_unique", np.unique(np.where(in_loss.numpy(), 1, -1)))
    f.holds("none: loss is zero and attached", loss == 0 and loss.requires_grad)
    f.close("overlaps_roi_polygon_box", bbox_overlaps(f["rois"] + more, around + more), VALUE)
    theirs = bbox_overlaps(f["cross_roi"] + more, around + more).argmax(1)
    f.equal("cross_polygon_of_gt", theirs[0])
    f.equal("cross_target", mask_targets.crop([f["cross_roi"]], [theirs], [masks], side)[0].to(torch.int8))
    own = torch.nonzero(of_object == f["cross_label"].long())[:1, 0]
    if len(own):
        ours = mask_targets.crop([f["cross_roi"]], [own], [masks], side)[0]
        f.holds("cross: ours is the assigned object", not np.array_equal(ours.numpy(), f.expected("cross_target") > 0))


def _init_small(f):
    """Shapes, and the spread of freshly initialised weights."""
    shapes = {blob: row[0] for blob, row in f.arrays["content"].items()}
    channels = shapes["conv5_mask_w"][1]
    mlp = "mask_mlp_logits_raw_w" in shapes
    arguments = {
        "in_channels": shapes["_[mask]_fcn1_w"][1],
        "conv_out_channels": channels,
        "num_convs": _layers(shapes, r"_\[mask\]_fcn(\d+)_w"),
        "roi_feat_size": round(shapes["mask_mlp_logits_raw_w"][0] ** 0.5) // 2 if mlp else 4,
        "described_by": shapes["bbox2mask_mlp_l1_w"][1],
        "mlp_layers": int(mlp),
    }
    config = ConfigDict(_config(mask=arguments)["roi_head"]["mask_head"])
    drawn = []
    logging.disable(logging.INFO)  # mmcv logs a paragraph for every parameter it initialises
    for _ in range(INITIALISATIONS):
        head = build_head(config)
        head.init_weights()
        drawn.append({blob: value.detach().flatten() for blob, value in _blobs(head, "mask_head.").items()})
    logging.disable(logging.NOTSET)
    ours = {blob: list(value.shape) for blob, value in _blobs(head, "mask_head.").items()}
    f.holds("names and shapes", ours == shapes, ", ".join(sorted(ours.keys() ^ shapes.keys())))
    for blob, (shape, filler, given) in f.arrays["content"].items():
        if blob not in ours:
            continue
        values = torch.cat([each[blob] for each in drawn]).double()
        if filler == "ConstantFill":
            f.holds(blob, bool((values == given["value"]).all()))
            continue
        std = given["std"] if filler == "GaussianFill" else (2 / (np.prod(shape) / shape[1])) ** 0.5
        spread = float(values.std() / std)
        f.holds(blob, abs(spread - 1) < 5 / (2 * len(values)) ** 0.5, f"(spread {spread:.4f} of the expected one)")


def _blob_shapes(f):
    ours = {blob: list(shape) for blob, shape in released.released_shapes().items()}
    wanted = f.arrays["content"]
    differing = sorted(blob for blob in ours.keys() | wanted.keys() if ours.get(blob) != wanted.get(blob))
    f.holds("names and shapes", not differing, ", ".join(differing))
    strays = [blob for blob in wanted if released.our_key(blob) not in released.our_shapes()]
    f.holds("names back", not strays, ", ".join(strays))


# Shared


def _config(box=None, mask=None):
    """The released configuration at a small size, some arguments of its box and mask head replaced."""
    released.released_config()  # makes types known
    small = Sizes(neck_channels=4, box_channels=4, mask_channels=8)
    room = methods.method("maskx")
    config = room.model(room.preset("released"), small, released.BACKBONES["r50"], released.NUM_CLASSES)
    head = config["roi_head"]
    head["bbox_head"] |= box or {}
    head["mask_head"] |= {"mlp_layers": 0} | (mask or {})
    return config


def _roi_head(box=None, mask=None):
    """The RoI head of `_config`."""
    config = _config(box, mask)
    parts = {"train_cfg": config["train_cfg"]["rcnn"], "test_cfg": config["test_cfg"]["rcnn"]}
    return build_head(ConfigDict(config["roi_head"] | parts))


def _describing(classifier, regressor):
    box = {"num_classes": len(classifier), "fc_out_channels": classifier.shape[1]}
    return _describe(_roi_head(box=box).bbox_head, classifier, regressor)


def _describe(box, classifier, regressor):
    """Give a box head the weights of a file, and a background of zeros, which no mask depends on."""
    with torch.no_grad():
        box.fc_cls.weight.copy_(torch.cat([classifier, torch.zeros_like(classifier[:1])]))
        box.fc_reg.weight.copy_(regressor)
    return box


def _layers(names, pattern):
    return max((int(match[1]) for name in names if (match := re.fullmatch(pattern, name))), default=0)


def _blobs(module, place, transfer_layers=2):
    """Released blob -> parameter."""
    return {released.released_key(place + name, transfer_layers): p for name, p in module.named_parameters()}


def _fill(module, place, f, prefix="param.", transfer_layers=2):
    with torch.no_grad():
        for blob, parameter in _blobs(module, place, transfer_layers).items():
            parameter.copy_(f[prefix + blob])


FIXTURES = {
    "transfer": _transfer,
    "head": _head,
    "head_grads": _head_grads,
    "targets": _targets,
    "init_small": _init_small,
    "roi_head_blob_shapes": _blob_shapes,
}
