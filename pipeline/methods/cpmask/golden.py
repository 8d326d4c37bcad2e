"""Compare this implementation with numbers computed with the first author's code (`tests/golden_comparison/cpmask/`).

Inputs and parameters are read from the fixtures; nothing is assumed about values, sizes or the number of RoIs. The mask
head is compared as it trains, `CPMaskHead` with the authors' group norm and without other norms.

In that code the affinity loss carries no gradient. The fixtures have one of the same loss in a differentiable form,
which is ours; that the other form has none is checked beside it.
"""

from pipeline import compat  # noqa: F401  # must precede mmcv

# isort: split

import re
from pathlib import Path

import numpy as np
import torch
from mmdet.core import PolygonMasks

from pipeline import methods
from pipeline.declaration.label_sets import label_set
from pipeline.errors import ExperimentError
from pipeline.methods.cpmask.released_checkpoint import HEAD, our_head_key, their_shapes
from pipeline.methods.shared import mask_targets, one_stage
from pipeline.methods.shared.golden import Check, Fixture, fixture_files, load_arrays, read_json

VALUE, GRADIENT = 5e-5, 2e-4  # of an array's largest absolute value: the non-local block is ill-conditioned
PARAMETER, BUFFER = "param.", re.compile(r".*\.(running_mean|running_var|num_batches_tracked)")
LOSSES = ("mask", "boundary", "affinity_differentiable")
ROWS = 7  # every so many rows of an affinity are in the fixture


def verify(directory: Path):
    """Check every fixture in a directory, as `contrastmask.golden.verify`.

    Args:
        directory: holds fixtures (`*.npz`, `*.json`), all or some; `head_grads.npz` needs `head.npz` beside it.

    Yields:
        One `Check` per array.

    Raises:
        ExperimentError: there is no fixture, an unknown one, or one that cannot be read or lacks an array.
    """
    for file in fixture_files(directory):
        yield from _fixture(file, Path(directory))


def _fixture(file, directory) -> list[Check]:
    if file.name not in FIXTURES:
        raise ExperimentError(f"{file}: unknown fixture; known are {', '.join(FIXTURES)}")
    fixture = Fixture(file.name, load_arrays(file) if file.suffix == ".npz" else {}, directory)
    with torch.random.fork_rng():
        FIXTURES[file.name](fixture)
    if file.suffix == ".npz":
        fixture.tell_unread()
    return fixture.checks


# Targets and RoIs


def _boundary(f):
    from pipeline.methods.shared.cpmask.boundary import boundary, erode

    f.equal("boundary", boundary(f["masks"]))
    f.equal("eroded", erode(f["masks"]))


def _class_filter(f):
    """Which objects of an image masks are learned from: their own boxes, by the groups of the label set."""
    from pipeline.methods.shared.cpmask.roi_head import BASE_GT, training_rois

    labels, every = f["classes"], label_set("coco")
    groups = {array.removeprefix("selected_"): array for array in f.arrays if array.startswith("selected_")}
    in_group = {name: _labels(every.category_names(name.replace("_", ""))) for name in groups}
    for name, array in groups.items():
        f.equal(array, torch.isin(labels, in_group[name]))
    (boxes,), (owners,) = training_rois(BASE_GT, None, [f["gt_boxes"]])
    f.equal("roi_boxes", boxes)
    f.equal("roi_classes", f["gt_classes"][owners])
    for array in f.arrays:
        if array.startswith("roi_in_mask_loss_"):
            base = in_group[array.removeprefix("roi_in_mask_loss_")]
            is_novel = ~torch.isin(f["gt_classes"], base)
            f.equal(array, ~is_novel[owners])


def _labels(names):
    return torch.tensor([label_set("coco").names.index(name) for name in names])


# Mask head


def _gate(f):
    head = _built(f, convs=0, boundary_convs=0)
    x, parsed = (f[name].requires_grad_() for name in ("x", "x_boundary"))
    out = head._gated(x, parsed)
    f.close("out", out, VALUE)
    names = [name.removeprefix("grad.") for name in f.arrays if name.startswith("grad.")]
    parameters = dict(head.named_parameters())
    inputs = [x, parsed, *(parameters[our_head_key(name)] for name in names)]
    gradients = torch.autograd.grad((out * f["upstream"]).sum(), inputs)
    for array, gradient in zip(
        ("grad_x", "grad_x_boundary", *(f"grad.{name}" for name in names)), gradients, strict=True
    ):
        f.close(array, gradient, GRADIENT)


def _head(f):
    from pipeline.methods.shared.cpmask.affinity import affinity_per_roi, on_cells
    from pipeline.methods.shared.cpmask.boundary import boundary

    head, masks = _built(f), f["mask_targets"]
    f.equal("mask_targets", _drawn_masks(f, masks.shape[-1]))
    f.equal("boundary_targets", boundary(masks))
    with torch.no_grad():
        head.eval()
        f.close("eval_mask_logits", head(f["roi_feats"]), VALUE)
        logits, boundaries, _ = head.forward_with_boundary(f["roi_feats"])
        f.close("eval_mask_logits", logits, VALUE, label=" (with boundary)")
        f.close("eval_boundary_logits", boundaries, VALUE)
        head.train()
        logits, boundaries, affinity = head.forward_with_boundary(f["roi_feats"], torch.ones(len(masks)).bool())
    f.equal("mask_targets14", on_cells(masks, affinity.shape[-1]).view_as(f["mask_targets14"]))
    f.close("mask_logits", logits, VALUE)
    f.close("boundary_logits", boundaries, VALUE)
    buffers = dict(head.named_buffers())
    for array in f.arrays:
        if array.startswith("after."):
            f.close(array, buffers[our_head_key(array.removeprefix("after."))], VALUE)
    for name, loss in head.loss(logits, boundaries, affinity, masks, torch.ones(len(masks)).bool()).items():
        f.close(name, loss, VALUE)
    within, has_pair = affinity_per_roi(affinity, masks)
    counted = len(f.expected("affinity_per_roi")) < len(within)  # a RoI without two foreground cells has no value
    f.close("affinity_per_roi", within[has_pair] if counted else within, VALUE)
    f.close("affinity_diag", affinity.diagonal(dim1=1, dim2=2), VALUE)
    f.close("affinity_roi0_rows", affinity[0, ::ROWS], VALUE)
    f.close("affinity_colsum", affinity.sum(1), VALUE)


def _head_grads(f):
    inputs = _beside(f, "head.npz")
    for name in LOSSES:
        head, gradients = _gradients(inputs, name)
        f.close(f"grad_{name}_roi_feats", gradients.pop("roi_feats"), GRADIENT)
        f.equal(f"has_grad_{name}", np.array([gradient is not None for gradient in gradients.values()]))
        norms = [0.0 if gradient is None else float(gradient.double().norm()) for gradient in gradients.values()]
        f.close(f"grad_{name}_l2", norms, GRADIENT)
        prefix = f"grad_{name}."
        for array in f.arrays:
            if array.startswith(prefix):
                key = array.removeprefix(prefix)
                parameter = dict(head.named_parameters())[our_head_key(key)]
                gradient = gradients[key]
                f.close(array, torch.zeros_like(parameter) if gradient is None else gradient, GRADIENT)
    _, gradients = _gradients(inputs, "affinity", affinity_gradient=False)
    nothing = all(gradient is None or not gradient.any() for gradient in gradients.values())
    f.holds("affinity_gradient: false has none", nothing)


def _gradients(f, name, **knobs):
    """A head and the gradients of a loss by the authors' names, `roi_feats` first; None where it does not reach."""
    head = _built(f, **knobs).train()
    x, masks = f["roi_feats"].requires_grad_(), f["mask_targets"]
    everyone = torch.ones(len(masks), dtype=torch.bool)
    losses = head.loss(*head.forward_with_boundary(x, everyone), masks, everyone)
    ours = dict(head.named_parameters())
    names = _learned(_parameters(f))
    inputs = [x, *(ours[our_head_key(name)] for name in names)]
    found = torch.autograd.grad(losses[f"loss_{name.partition('_')[0]}"], inputs, allow_unused=True)
    return head, dict(zip(("roi_feats", *names), found, strict=True))


def _built(f, convs=None, boundary_convs=None, **knobs):
    """The head that a fixture's parameters are of, with them in it; parts without any are left out."""
    from pipeline.methods.shared.cpmask.mask_head import CPMaskHead

    parameters = _parameters(f)
    channels = f.expected("param.mask_transform.weight").shape[0]
    wide = parameters["mask_fcn1.weight"].shape[0] if convs is None else channels
    settings = methods.method("cpmask").preset("released", **{"affinity_gradient": True, **knobs})
    head = CPMaskHead(
        in_channels=channels,
        conv_out_channels=wide,
        num_convs=_count(parameters, "mask_fcn") if convs is None else convs,
        boundary_convs=_count(parameters, "boundary_fcn") if boundary_convs is None else boundary_convs,
        norm_groups=one_stage.most_groups(channels),
        boundary_loss_weight=settings.boundary_loss_weight,
        affinity_loss_weight=settings.affinity_loss_weight,
        affinity_gradient=settings.affinity_gradient,
        affinity_norm_init=settings.affinity_norm_init,
    )
    given = {our_head_key(name): tensor for name, tensor in parameters.items()}
    missing = head.load_state_dict(given, strict=convs is None)
    if missing.unexpected_keys:
        raise ExperimentError(f"{f.name}: parameters without a place: {', '.join(missing.unexpected_keys)}")
    return head


def _parameters(f):
    """Parameters and buffers of a fixture by the authors' names, in the order of the file."""
    names = [name.removeprefix(PARAMETER) for name in f.arrays if name.startswith(PARAMETER)]
    if unknown := [name for name in names if our_head_key(name) is None]:
        raise ExperimentError(f"{f.name}: no tensor of the mask head is called {', '.join(unknown)} there")
    return {name: f[PARAMETER + name] for name in names}


def _learned(names):
    return [name for name in names if not BUFFER.fullmatch(name)]


def _count(parameters, prefix):
    return sum(re.fullmatch(rf"{prefix}\d+\.weight", name) is not None for name in parameters)


def _drawn_masks(f, size):
    """The masks of a fixture's polygons in its boxes, drawn as training draws them (`mask_format: polygon`)."""
    polygons, boxes = f.expected("polygons").astype(np.float64), f.expected("boxes")
    shift = -min(0, int(np.floor(min(polygons.min(), boxes.min()))))  # an image has no place below zero
    polygons, boxes = polygons + shift, boxes + shift
    beyond = int(max(polygons.max(), boxes.max())) + 1
    objects = PolygonMasks([[polygon] for polygon in polygons], beyond, beyond)
    return mask_targets.crop([torch.from_numpy(boxes)], [torch.arange(len(boxes))], [objects], size)


def _beside(f, name):
    file = f.directory / name
    if not file.exists():
        raise ExperimentError(f"{f.directory / f.name}: needs {name} beside it, which has its inputs")
    return Fixture(name, load_arrays(file), f.directory)


# Names


def _param_names(f):
    """Names of the head's parameters, in the order of the gradient norms."""
    names = read_json(f.directory / f.name, list)
    if (f.directory / "head.npz").exists():
        f.holds("names and order", names == _learned(_parameters(_beside(f, "head.npz"))))
    else:
        f.holds("names", sorted(names) == sorted(_learned(_head_shapes())))


def _head_keys(f):
    _compare_shapes(f, _head_shapes())


def _model_keys(f):
    _compare_shapes(f, their_shapes(f.name.removesuffix(".json").rpartition("_")[2]))


def _head_shapes():
    return {key.removeprefix(HEAD): shape for key, shape in their_shapes("r50").items() if key.startswith(HEAD)}


def _compare_shapes(f, ours):
    """One line per tensor that differs, and one for all that do not."""
    theirs = {key: tuple(shape) for key, shape in read_json(f.directory / f.name, dict).items()}
    for key in sorted(theirs.keys() | ours.keys()):
        if theirs.get(key) != ours.get(key):
            f.holds(key, False, f"(shape {theirs.get(key)}, ours {ours.get(key)})")
    f.holds(f"{len(theirs)} names and shapes", theirs == ours)


FIXTURES = {
    "boundary.npz": _boundary,
    "class_filter.npz": _class_filter,
    "gate_groupnorm.npz": _gate,
    "head.npz": _head,
    "head_grads.npz": _head_grads,
    "head_param_names.json": _param_names,
    "mask_head_state_dict_keys.json": _head_keys,
    "state_dict_keys_r50.json": _model_keys,
    "state_dict_keys_r101.json": _model_keys,
}
