"""Compare this implementation with numbers computed with the authors' code (github.com/tensorflow/tpu 7dc921f).

Fixtures hold TensorFlow's layouts: features [image, instance, row, column, channel], boxes y1, x1, y2, x2. Sizes and
counts are read from the arrays. The authors' normalisers count the foreground of all instances, ours of base instances
alone: losses and their gradients are compared after multiplication by our count over theirs.
"""

from pipeline import compat  # noqa: F401  # must precede mmcv

# isort: split

import math
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from pipeline.declaration.label_sets import label_set
from pipeline.errors import ExperimentError
from pipeline.methods.shapemask import clusters
from pipeline.methods.shapemask import released_checkpoint as released
from pipeline.methods.shared.golden import Check, Fixture, compare, fixture_files, load_arrays, read_json
from pipeline.methods.shared.shapemask import geometry, head
from pipeline.methods.shared.shapemask.roi_extractor import UnshiftedRoIExtractor
from pipeline.methods.shared.shapemask.roi_head import drawn

VALUE = 1e-5  # of an array's largest absolute value
GRADIENT = 1e-4  # the same for gradients
OUTER = 1.25  # of the fixtures
BASE_LEVEL, BASE_SIDE = 4, 224  # a RoI of this side is of this level, whose stride is 2 ** level
EMPTY = 1e-20  # by which the authors' code divides where no cell is foreground


def verify(directory: Path) -> Iterator[Check]:
    """Check every fixture in a directory.

    Args:
        directory: holds fixtures (`*.npz`, `*.json`), all or some.

    Yields:
        One result per array.

    Raises:
        ExperimentError: there is no fixture, an unknown one, or one that cannot be read or lacks an array.
    """
    for file in fixture_files(directory):
        known = FIXTURES.get(file.name)
        if known is None:
            raise ExperimentError(f"{file}: unknown fixture; known are {', '.join(FIXTURES)}")
        if file.suffix == ".json":
            fixture = Fixture(file.name, {}, Path(directory))
            known(fixture, read_json(file, list if file.name == PARAM_NAMES else dict))
        else:
            fixture = Fixture(file.name, load_arrays(file), Path(directory))
            known(fixture)
        if file.suffix == ".npz":
            fixture.tell_unread()
        yield from fixture.checks


# Layouts


def xyxy(boxes: Tensor) -> Tensor:
    """Boxes [..., 4] of theirs with our order of coordinates, and the other way round."""
    return boxes[..., [1, 0, 3, 2]]


def channels_first(maps: Tensor) -> Tensor:
    """[image, instance, row, column, channel] as [RoI, channel, row, column]."""
    return maps.flatten(0, 1).permute(0, 3, 1, 2)


def channels_last(maps: Tensor, like) -> Tensor:
    """The inverse of `channels_first`, with the leading axes of an array."""
    return maps.permute(0, 2, 3, 1).unflatten(0, like.shape[:2])


def _heads(f, scopes, classes=1):
    """The heads whose `param.*` a fixture has, with those values, and names of their parameters."""
    variables = {name.removeprefix("param."): f[name] for name in f.arrays if name.startswith("param.")}
    built = _built({name: tuple(value.shape) for name, value in variables.items()}, scopes, classes)
    expected = released.variables_of(built)
    if missing := [name for name in expected if name not in variables]:
        raise ExperimentError(f"{f.name}: array 'param.{missing[0]}' is missing")
    state = {released.our_key(name): released.our_layout(value) for name, value in variables.items()}
    built.load_state_dict(state, strict=False)
    f.holds("names of parameters", set(variables) == set(expected))
    return built


def _built(shapes, scopes, classes=1):
    """Heads of some scopes of the sizes that their variables have; `classes` where no predictor tells how many."""
    filled = dict(shapes)
    channels = next(shape[-1] for name, shape in shapes.items() if name.endswith("_mask/dense/kernel"))
    for name, shape in (
        ("prior_mask/dense/kernel", (1, channels)),
        ("prior_mask/dense_1/kernel", (channels, 1)),
        ("coarse_mask/class-predict/kernel", (1, 1, channels, classes)),
    ):
        filled.setdefault(name, shape)
    built = released.heads_of(filled)
    return torch.nn.ModuleDict({part: built[part] for part in scopes})


def _crop(f, levels, images, frames, cells):
    """Features [R, F, cells, cells] of frames [image, instance, 4] of the fixture's pyramid, and their indices."""
    strides = [2**level for level in levels]
    channels = images[0].shape[1]
    extractor = UnshiftedRoIExtractor(
        roi_layer={"type": "RoIAlign", "output_size": cells, "sampling_ratio": 1},
        out_channels=channels,
        featmap_strides=strides,
        finest_scale=BASE_SIDE * strides[0] // 2**BASE_LEVEL,
    )
    # The authors round once, at the end; our moved boxes would add a rounding that grows with the image.
    return extractor([image.double() for image in images], _rois(frames).double()).float()


def _rois(frames):
    """[image, instance, 4] of theirs as [R, 5]."""
    image = torch.arange(len(frames), dtype=torch.float32)[:, None, None].expand(*frames.shape[:2], 1)
    return torch.cat([image, xyxy(frames)], -1).flatten(0, 1)


def _pyramid(f):
    names = sorted((name for name in f.arrays if re.fullmatch(r"p\d+", name)), key=lambda name: int(name[1:]))
    if not names:
        raise ExperimentError(f"{f.name}: no array is named like p3; there are {', '.join(f.arrays)}")
    return [int(name[1:]) for name in names], [f[name].permute(0, 3, 1, 2).contiguous() for name in names]


# Fixtures


def _boxes(f):
    boxes, (height, width) = xyxy(f["boxes_yxyx"]), f["image_size_hw"].tolist()
    jittered = geometry.jittered(boxes, f["noise_dx_dy_dw_dh"])
    clipped = geometry.clipped(jittered, height, width)
    f.close("jittered", xyxy(jittered), VALUE)
    f.close("clipped", xyxy(clipped), VALUE)
    f.close("outer", xyxy(geometry.outer(clipped, OUTER, height, width)), VALUE)
    f.close("edge_outer", xyxy(geometry.outer(xyxy(f["edge_boxes"]), OUTER, height, width)), VALUE)
    padded = f["padded_to_8"]
    objects = xyxy(padded[padded.any(1)])
    ours = drawn([objects], len(padded), "pad", 0.0, (height, width)).rois[:, 1:]
    # In random order, ours; so both are sorted.
    f.checks.append(compare(f.name, "padded_to_8", _in_order(xyxy(ours)), _in_order(padded), VALUE))
    labels = label_set("coco")
    ids = {category.name: category.id for category in labels.categories}
    for direction, array in (("voc2nonvoc", "split_voc"), ("nonvoc2voc", "split_nonvoc")):
        base, _ = labels.base_and_novel(direction)
        f.equal(array, np.array(sorted(ids[name] for name in base)))


def _in_order(boxes):
    rows = np.asarray(boxes)
    return rows[np.lexsort(rows.T)]


def _crops(f):
    levels, images = _pyramid(f)
    boxes, frames = f["boxes_yxyx"], f["outer_boxes_yxyx"]
    cells = f.expected("crop").shape[2]
    f.close("crop", channels_last(_crop(f, levels, images, frames, cells), boxes), VALUE)
    inside = xyxy(boxes).flatten(0, 1), xyxy(frames).flatten(0, 1)
    maps = f["mask_in"].flatten(0, 1)
    f.close("ones_in_outer", _unflat(geometry.in_other_box(torch.ones_like(maps), *inside), boxes), VALUE)
    f.close("mask_in_outer", _unflat(geometry.in_other_box(maps, *inside), boxes), VALUE)
    levelled = f["level_boxes_yxyx"]
    extractor = UnshiftedRoIExtractor(
        roi_layer={"type": "RoIAlign", "output_size": 1, "sampling_ratio": 1},
        out_channels=1,
        featmap_strides=[2**level for level in levels],
        finest_scale=BASE_SIDE * 2 ** levels[0] // 2**BASE_LEVEL,
    )
    found = extractor.map_roi_levels(_rois(levelled), len(levels)) + levels[0]
    f.equal("level_of_box", found.reshape(f.expected("level_of_box").shape))


def _unflat(maps, like):
    return maps.unflatten(0, like.shape[:2])


def _prior_agnostic(f):
    _prior(f, f, with_features=True)


def _prior_classaware(f):
    other = Fixture("prior_head_agnostic.npz", load_arrays(_beside(f, "prior_head_agnostic.npz")), f.directory)
    _prior(f, other, with_features=False)


def _beside(f, name):
    path = f.directory / name
    if not path.is_file():
        raise ExperimentError(f"{path}: no such file, which {f.name} has its inputs in; put both into one directory")
    return path


def _prior(f, targets_of, with_features):
    crops = Fixture("crops.npz", load_arrays(_beside(f, "crops.npz")), f.directory)
    levels, images = _pyramid(crops)
    images = [image.requires_grad_() for image in images]
    boxes, frames = crops["boxes_yxyx"], crops["outer_boxes_yxyx"]
    outputs, number = len(f.expected("param.prior_mask/dense_1/bias")), f.expected("priors").shape[1]
    prior = _heads(f, ["prior"], outputs // number)["prior"]
    prior.centres = f["priors"]
    cells = prior.centres.shape[-1]
    labels = f["classes"].flatten().long()
    features = _crop(crops, levels, images, frames, cells)
    reduced, estimate, weights = prior(features, xyxy(boxes).flatten(0, 1), xyxy(frames).flatten(0, 1), labels)
    if with_features:
        f.close("instance_features", channels_last(reduced, boxes), VALUE)
    f.close("prior_weights", _unflat(weights, boxes), VALUE)
    f.close("prior_in_outer", _unflat(estimate, boxes), VALUE)
    targets, valid = targets_of["mask_targets"].flatten(0, 1), f["valid"].flatten().bool()
    share = _counted(targets, valid)
    loss = head.prior_loss(estimate, targets, valid) * share
    f.close("loss_prior", loss, VALUE)
    loss.backward()
    gradients = {released.released_key(f"prior.{key}"): value.grad for key, value in prior.named_parameters()}
    for name, gradient in gradients.items():
        f.close(f"grad.{name}", released.released_layout(gradient), GRADIENT)
    for level, image in zip(levels, images, strict=True):
        if f"grad_p{level}" in f.arrays:
            f.close(f"grad_p{level}", image.grad.permute(0, 2, 3, 1), GRADIENT)


def _counted(targets, valid):
    """Foreground that our normaliser counts over that of theirs."""
    ours = (targets * valid[:, None, None]).sum().clamp(min=1)
    return ours / (targets.sum() + EMPTY)


def _coarse_fine(f):
    heads, features, prior, leaves = _decoded(f)
    coarse, fine = leaves["coarse"], leaves["fine"]
    shape = f.expected("prior_in_outer")
    f.close("coarse_logits", _unflat(coarse, shape), VALUE)
    f.close("fine_logits", _unflat(fine, shape), VALUE)
    f.close("loss_coarse", leaves["loss_coarse"], VALUE)
    f.close("loss_fine", leaves["loss_fine"], VALUE)
    after = released.variables_of(heads)
    for name in f.arrays:
        if name.startswith("after."):
            f.close(name, after[name.removeprefix("after.")], VALUE)
    # As at test time: with the moving averages from before the step.
    heads = _heads(Fixture(f.name, f.arrays), ["coarse", "fine"]).eval()
    coarse = heads["coarse"](features, prior)
    fine = heads["fine"](features, coarse)
    f.close("eval_coarse_logits", _unflat(coarse, shape), VALUE)
    step = round(fine.shape[-1] / f.expected("eval_fine_logits_sub").shape[-1])
    f.close("eval_fine_logits_sub", _unflat(fine[:, ::step, ::step], shape), VALUE)


def _decoded(f):
    """Run coarse and fine head on a fixture's inputs in training mode: heads, inputs, outputs and losses."""
    heads = _heads(f, ["coarse", "fine"]).train()
    features = channels_first(f["instance_features"]).contiguous().requires_grad_()
    prior = f["prior_in_outer"].flatten(0, 1).requires_grad_()
    targets, valid = f["mask_targets"].flatten(0, 1), f["valid"].flatten().bool()
    coarse = heads["coarse"](features, prior)
    fine = heads["fine"](features, coarse)
    repeats = fine.shape[-1] // targets.shape[-1]
    larger = targets.repeat_interleave(repeats, -1).repeat_interleave(repeats, -2)
    losses = {
        "coarse": coarse,
        "fine": fine,
        "loss_coarse": head.mask_loss(coarse, targets, valid) * _counted(targets, valid),
        "loss_fine": head.mask_loss(fine, larger, valid) * _counted(larger, valid),
    }
    return heads, features, prior, losses


def _coarse_fine_grads(f):
    inputs = Fixture("coarse_fine.npz", load_arrays(_beside(f, "coarse_fine.npz")), f.directory)
    names = read_json(_beside(f, PARAM_NAMES), list)
    for part in ("coarse", "fine"):
        heads, features, prior, found = _decoded(inputs)
        found[f"loss_{part}"].backward()
        gradients = {released.released_key(key): value.grad for key, value in heads.named_parameters()}
        gradients = {name: None if g is None else released.released_layout(g) for name, g in gradients.items()}
        shape = inputs.expected("instance_features")
        gradients["instance_features"] = None if features.grad is None else channels_last(features.grad, shape)
        gradients["prior_in_outer"] = None if prior.grad is None else _unflat(prior.grad, shape)
        has = np.array([gradients[name] is not None for name in names])
        f.equal(f"has_grad_{part}", has)
        for name in f.arrays:
            if name.startswith(f"grad_{part}."):
                gradient = gradients[name.removeprefix(f"grad_{part}.")]
                f.close(name, np.full(f.expected(name).shape, np.nan) if gradient is None else gradient, GRADIENT)


def _losses(f):
    labels = f["labels"].flatten(0, 1)
    shape = f.expected("logits")
    cases = [name.removeprefix("valid_") for name in f.arrays if name.startswith("valid_")]
    for case in cases:
        valid = f[f"valid_{case}"].flatten().bool()
        share = _counted(labels, valid)
        for kind, function in (("bce", head.mask_loss), ("mse", head.prior_loss)):
            logits = f["logits"].flatten(0, 1).requires_grad_()
            loss = function(logits, labels, valid) * share
            f.close(f"{kind}_{case}", loss, VALUE)
            loss.backward()
            f.close(f"grad_{kind}_{case}", _unflat(logits.grad, shape), GRADIENT)
    if "bce_empty_labels" in f.arrays:
        everyone = torch.ones(len(labels), dtype=torch.bool)
        loss = head.mask_loss(f["logits"].flatten(0, 1), torch.zeros_like(labels), everyone)
        # Theirs is the same sum by 1e-20; ours, by at least 1, stays a number that one can train with.
        f.close("bce_empty_labels", loss.double() / EMPTY, VALUE)


def _targets(f):
    masks, frames = f["masks"], xyxy(f["outer_boxes_yxyx"])
    height, width = masks.shape[1:]
    owners = torch.arange(len(frames))
    f.close("normalised_boxes", f["outer_boxes_yxyx"] / torch.tensor([height, width] * 2), VALUE)
    for name in f.arrays:
        if match := re.fullmatch(r"(raw|target)(\d+)", name):
            crops = geometry.mask_targets(masks, owners, frames, int(match[2]))
            f.close(name, crops, VALUE) if match[1] == "raw" else f.equal(name, crops >= 0.5)


def _kmeans(f):
    assignment, centres, rounds = clusters.lloyd(f.expected("masks"), f.expected("initial"))
    f.equal("assignment", assignment)
    f.close("centroids", centres, VALUE)
    f.equal("iterations", np.array(rounds))


def _param_names(f, names):
    convs = {scope: len([n for n in names if re.fullmatch(rf"{scope}/class-\d+/kernel", n)]) for scope in SCOPES}
    shapes = {f"{scope}/class-{i}/kernel": (3, 3, 8, 8) for scope, count in convs.items() for i in range(count)}
    shapes |= {"coarse_mask/dense/kernel": (1, 8), "fine_mask/conv2d_transpose/kernel": (4, 4, 8, 8)}
    heads = _built(shapes, ["coarse", "fine"])
    ours = {released.released_key(name) for name, _ in heads.named_parameters()}
    f.holds("names of parameters", ours | {"instance_features", "prior_in_outer"} == set(names))


def _variables(f, shapes):
    with torch.device("meta"):
        heads = released.heads_of({name: tuple(shape) for name, shape in shapes.items()})
        ours = {name: list(value.shape) for name, value in released.variables_of(heads).items()}
    f.holds("names", ours.keys() == shapes.keys())
    f.holds("shapes", ours == shapes)
    f.holds("both ways", all(released.released_key(released.our_key(name)) == name for name in shapes))
    count = sum(math.prod(shape) for shape in shapes.values())
    f.holds("numbers", count == sum(math.prod(shape) for shape in ours.values()))


SCOPES = ("coarse_mask", "fine_mask")
PARAM_NAMES = "coarse_fine_param_names.json"
FIXTURES = {
    "boxes.npz": _boxes,
    "crops.npz": _crops,
    "prior_head_agnostic.npz": _prior_agnostic,
    "prior_head_classaware.npz": _prior_classaware,
    "coarse_fine.npz": _coarse_fine,
    "coarse_fine_grads.npz": _coarse_fine_grads,
    "losses.npz": _losses,
    "targets.npz": _targets,
    "kmeans_ours.npz": _kmeans,
    PARAM_NAMES: _param_names,
    "mask_heads_variables_agnostic.json": _variables,
    "mask_heads_variables_classaware.json": _variables,
}
