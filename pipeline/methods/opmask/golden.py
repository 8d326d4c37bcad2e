"""Compare OPMask with numbers computed with its authors' released code (`tests/golden_comparison/opmask/README.md`).

Everything is read from the files: values, numbers of RoIs, classes and layers, widths.
"""

from pipeline import compat  # noqa: F401  # must precede mmcv

# isort: split

import re
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from mmcv import ConfigDict
from mmdet.core import PolygonMasks
from mmdet.models import build_head
from torch import distributed as dist
from torch import multiprocessing

from pipeline import methods
from pipeline.declaration.label_sets import label_set
from pipeline.errors import ExperimentError
from pipeline.methods.opmask import released_checkpoint as released
from pipeline.methods.opmask.batch_norm import RoIBatchNorm
from pipeline.methods.shared.cam import min_max_normalise
from pipeline.methods.shared.golden import Check, Fixture, fixture_files, load_arrays, read_json
from pipeline.methods.shared.sampled_roi_head import SampledRoIs
from pipeline.methods.shared.sizes import Sizes

VALUE, GRADIENT = 1e-5, 1e-4  # of an array's largest absolute value
PATIENCE = 300  # seconds for a process of a step
BOX, MASK = ("roi_head.bbox_head.", "roi_heads.box_head."), ("roi_head.mask_head.", "roi_heads.mask_head.")
DIRECTIONS = {"voc": "voc2nonvoc", "nvoc": "nonvoc2voc"}  # their names of what is supervised
LARGE = 10**6  # pixels, for images whose size no file tells


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
        if file.stem not in FIXTURES:
            raise ExperimentError(f"{file}: unknown fixture; known are {', '.join(FIXTURES)}")
        arrays = load_arrays(file) if file.suffix == ".npz" else {"content": read_json(file, dict | list)}
        fixture = Fixture(file.name, arrays, file.parent)
        with torch.random.fork_rng():
            FIXTURES[file.stem](fixture)
        if file.suffix == ".npz":
            fixture.tell_unread()
        yield from fixture.checks


def _cam(f):
    head = _roi_head(
        box={
            "in_channels": f.expected("roi_feats").shape[1],
            "num_shared_convs": _layers(f.arrays, r"param\.conv(\d+)\.weight"),
            "conv_out_channels": f.expected("param.cls_score.weight").shape[1],
            "num_classes": len(f.expected("param.cls_score.weight")) - 1,
            "roi_feat_size": f.expected("roi_feats").shape[-1],
        }
    )
    box, labels, size = head.bbox_head, f["labels"], f.expected("train_cam14").shape[-1]
    _fill(box, f, BOX)
    box.eval()
    with torch.no_grad():
        scores, deltas, features = box.forward_with_features(f["roi_feats"])
        f.close("eval_cls_score", scores, VALUE)
        f.close("eval_bbox_pred", deltas, VALUE)
        f.close("eval_conv_feats", features, VALUE)
        f.close("eval_cam14", head._prior(box.activation_maps(features, labels), size)[0], VALUE)
    box.train()
    roi_feats = f["roi_feats"].requires_grad_()
    scores, deltas, features = box.forward_with_features(roi_feats)
    maps = box.activation_maps(features, labels)
    prior, _ = head._prior(maps, size)
    rois, classes = len(features), len(f.expected("param.cls_score.weight"))
    every = box.activation_maps(features.repeat_interleave(classes, 0), torch.arange(classes).repeat(rois))
    f.close("train_cls_score", scores, VALUE)
    f.close("train_bbox_pred", deltas, VALUE)
    f.close("train_conv_feats", features, VALUE)
    f.close("train_cam_all", every.view(rois, classes, *every.shape[-2:]), VALUE)
    f.close("train_cam7", maps, VALUE)
    f.close("train_cam7_norm", min_max_normalise(maps)[0], VALUE)
    f.close("train_cam14", prior, VALUE)
    parameters = _parameters(box, BOX)
    inputs = {"roi_feats": roi_feats, "conv_feats": features, **{f".{name}": p for name, p in parameters.items()}}
    gradients = _gradients((f["upstream14"] * prior).sum(), inputs)
    _compare_gradients(f, "grad", gradients)
    reached = [gradients[f".{name}"] is not None for name in _order(f, "cam_param_names.json", parameters)]
    f.equal("has_grad", np.array(reached))
    _compare_norms(f, "grad_l2", "cam_param_names.json", gradients, parameters)
    _compare_buffers(f, box, BOX)


def _mask_head(f):
    features, cams = f["roi_feats"], f["cams"]
    head = _roi_head(
        mask={
            "in_channels": features.shape[1],
            "conv_out_channels": len(f.expected("param.mask_down1.weight")),
            "num_convs": _layers(f.arrays, r"param\.mask_down(\d+)\.weight"),
        },
        mask_roi_size=features.shape[-1],
    )
    _fill(head.mask_head, f, MASK)
    head.mask_head.eval()
    with torch.no_grad():
        f.close("eval_logits", head.mask_head(features, cams), VALUE)
    splits = [name.removeprefix("used_") for name in f.arrays if name.startswith("used_")]
    for number, split in enumerate(splits):
        supervised = f[f"supervised_{split}"] if f"supervised_{split}" in f.arrays else torch.ones(LARGE).bool()
        step = _mask_step(head, f, ~supervised)
        f.close(f"loss_{split}", step["loss"], VALUE)
        f.equal(f"used_{split}", step["in_loss"])
        if not number:
            f.close("train_logits", step["logits"], VALUE)
            f.equal("mask_targets", step["targets"])
            _compare_buffers(f, head.mask_head, MASK)
        if any(name.startswith(f"grad_{split}") for name in f.arrays):
            parameters = _parameters(head.mask_head, MASK)
            inputs = step["inputs"] | {f".{name}": parameter for name, parameter in parameters.items()}
            gradients = _gradients(step["loss"], inputs)
            _compare_gradients(f, f"grad_{split}", gradients)
            _compare_norms(f, f"grad_{split}_l2", "mask_head_param_names.json", gradients, parameters)
    for name in f.arrays:
        if name.startswith("loss_") and name.endswith("_without_base"):
            loss = _mask_step(head, f, torch.ones(LARGE).bool())["loss"]
            f.close(name, loss, VALUE)
            f.holds(f"{name}: attached", loss.requires_grad)
    labels = label_set("coco")
    for split, direction in DIRECTIONS.items():
        if f"supervised_{split}" in f.arrays:
            base = labels.category_names(labels.directions[direction]["base"])
            f.equal(f"supervised_{split}", np.isin(labels.names, base))


class _Given(torch.nn.Module):
    """A RoI extractor whose features are known."""

    num_inputs = 0

    def __init__(self, features):
        super().__init__()
        self.features = features

    def forward(self, x, rois):
        return self.features


def _mask_step(head, f, novel):
    """A training pass from RoI features to the loss, by the code that trains.

    Args:
        novel: by class.
    """
    _fill(head.mask_head, f, MASK)
    head.mask_head.train()
    inputs = {"roi_feats": f["roi_feats"].requires_grad_(), "cams": f["cams"].requires_grad_()}
    sampled, masks, flags = [], [], []
    foreground = f["image_of"][f["is_foreground"].bool()]
    order = foreground.argsort(stable=True)  # the file's RoIs, image by image
    back = order.argsort()
    for image in torch.unique(f["image_of"]):
        here = f["image_of"] == image
        positive = here & f["is_foreground"]
        boxes, classes = f["all_boxes"][positive], f["all_classes"][positive]
        background = f["all_boxes"][here & ~f["is_foreground"]]
        own = torch.arange(len(boxes))
        is_gt = torch.zeros_like(own, dtype=torch.bool)
        sampled.append(SampledRoIs(torch.cat([boxes, background]), own, boxes, classes, is_gt))
        masks.append(PolygonMasks([[polygon] for polygon in f["polygons"][positive].double().numpy()], LARGE, LARGE))
        flags.append(novel[classes])
    seen = {"inputs": inputs}
    # RoI features and maps are the file's; what leads to them is compared elsewhere.
    head.mask_roi_extractor = _Given(inputs["roi_feats"][order])
    head.bbox_head.activation_maps = lambda features, labels: inputs["cams"][order]
    head._prior = lambda maps, size: (maps, None)
    loss = head.mask_head.loss

    def watched(logits, targets, in_loss):
        seen.update(logits=logits[back], in_loss=in_loss[back])
        return loss(logits, targets, in_loss)

    head.mask_head.loss = watched
    try:
        seen["loss"] = head._mask_losses([], sampled, None, masks, flags, {})["loss_mask"]
    finally:
        del head.mask_head.loss
    seen["targets"] = head._mask_targets(sampled, masks, f.expected("mask_targets").shape[-1])[back]
    return seen


def _sync_bn(f):
    workers = len(f.expected("counts"))
    arrays = [{name: f[f"{name}{rank}"] for name in ("x", "upstream")} for rank in range(workers)]
    f.equal("counts", [len(step["x"]) for step in arrays])
    found = _in_processes(f, arrays)
    for rank, step in enumerate(found):
        for name, values in step.items():
            label = f"{name}{rank}"
            if label not in f.arrays:
                raise ExperimentError(f"{f.name}: array {label!r} is missing; there are {', '.join(f.arrays)}")
            if name == "num_batches_tracked":
                f.equal(label, values)
            else:
                f.close(label, values, GRADIENT if name.startswith("grad_") else VALUE)
    nothing = [{name: tensor[:0] for name, tensor in step.items()} for step in arrays]
    for step in _in_processes(f, nothing)[:1]:
        f.close("allempty_running_mean", step["running_mean"], VALUE)
        f.close("allempty_running_var", step["running_var"], VALUE)
    layer = _norm(f)
    f.close("single_y", layer(torch.cat([step["x"] for step in arrays])), VALUE)
    f.close("single_running_mean", layer.running_mean, VALUE)
    f.close("single_running_var", layer.running_var, VALUE)


def _norm(f):
    layer = RoIBatchNorm(len(f.expected("param.weight")), eps=float(f["eps"]), momentum=float(f["momentum"]))
    layer.load_state_dict({name: f[f"param.{name}"] for name in layer.state_dict()})
    return layer.train()


def _in_processes(f, arrays):
    """A training step of the norm in a process for each of `arrays`: what each has afterwards, by name."""
    # A fork is quick, and impossible once a GPU is in use.
    context = multiprocessing.get_context("spawn" if torch.cuda.is_available() else "fork")
    with tempfile.TemporaryDirectory() as folder:
        processes = [
            context.Process(target=_worker, args=(f, step, rank, len(arrays), folder))
            for rank, step in enumerate(arrays)
        ]
        for process in processes:
            process.start()
        for process in processes:
            process.join(PATIENCE)
        ended = [process.exitcode for process in processes]
        for process in processes:
            process.kill()  # one that waits for another that failed
        if any(code != 0 for code in ended):
            raise ExperimentError(f"{f.name}: a process of the synchronised norm failed; its error stands above")
        return [torch.load(Path(folder) / f"{rank}.pth", weights_only=True) for rank in range(len(arrays))]


def _worker(f, step, rank, workers, folder):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=workers)
    layer, x = _norm(f), step["x"].requires_grad_()
    y = layer(x)
    gradients = torch.autograd.grad((step["upstream"] * y).sum(), [x, layer.weight, layer.bias])
    found = {"y": y.detach(), **dict(zip(("grad_x", "grad_weight", "grad_bias"), gradients, strict=True))}
    found |= {name: buffer.clone() for name, buffer in layer.named_buffers()}
    torch.save(found, Path(folder) / f"{rank}.pth")
    dist.barrier()
    dist.destroy_process_group()


def _state_dict_keys(f):
    backbone = f.name.removesuffix(".json").removeprefix("state_dict_keys_")
    ours = {key: list(shape) for key, shape in released.released_shapes(backbone).items()}
    wanted = f.arrays["content"]
    differing = sorted(key for key in ours.keys() | wanted.keys() if ours.get(key) != wanted.get(key))
    f.holds("names and shapes", not differing, ", ".join(differing))
    shapes = released.our_shapes(backbone)
    strays = [key for key in wanted if not key.startswith(released.ANCHORS) and released.our_key(key) not in shapes]
    f.holds("names back", not strays, ", ".join(strays))


def _param_names(f):
    """The order in which another fixture lists gradients."""
    wanted = f.arrays["content"]
    if f.name.startswith("cam"):
        head = _roi_head(box={"num_shared_convs": _layers(wanted, r"conv(\d+)\.weight")}).bbox_head
        ours = _parameters(head, BOX)
    else:
        head = _roi_head(mask={"num_convs": _layers(wanted, r"mask_down(\d+)\.weight")}).mask_head
        ours = _parameters(head, MASK)
    f.holds("names and order", list(ours) == wanted)


# Shared


def _roi_head(box=None, mask=None, **sizes):
    """The RoI head of the released configuration, some arguments of its box and mask head replaced."""
    config = released.released_config("r50")
    small = Sizes(neck_channels=8, box_channels=4, mask_channels=8, **sizes)
    knobs = methods.method("opmask").preset("released")
    config = methods.method("opmask").model(knobs, small, config["backbone"], released.NUM_CLASSES)
    head = config["roi_head"]
    head["bbox_head"] |= box or {}
    head["mask_head"] |= mask or {}
    parts = {"train_cfg": config["train_cfg"]["rcnn"], "test_cfg": config["test_cfg"]["rcnn"]}
    return build_head(ConfigDict(head | parts))


def _layers(names, pattern):
    return max((int(match[1]) for name in names if (match := re.fullmatch(pattern, name))), default=0)


def _their(name, places):
    ours, theirs = places
    return released.released_key(ours + name).removeprefix(theirs)


def _fill(module, f, places):
    module.load_state_dict({name: f[f"param.{_their(name, places)}"] for name in module.state_dict()})


def _parameters(module, places):
    """Released name -> parameter, in the released order: layers first that stand first in the data flow."""
    named = {_their(name, places): parameter for name, parameter in module.named_parameters()}
    kinds = ("conv", "mask_down", "mask_up", "cls_score", "bbox_pred", "predictor")
    return dict(sorted(named.items(), key=lambda item: [item[0].startswith(kind) for kind in kinds], reverse=True))


def _order(f, file, parameters):
    """Names in the order of the list beside a fixture; the released order where there is none."""
    path = f.directory / file
    names = read_json(path, list) if path.exists() else list(parameters)
    if unknown := [name for name in names if name not in parameters]:
        raise ExperimentError(f"{path}: no parameter {unknown[0]!r}; there are {', '.join(parameters)}")
    return names


def _gradients(value, inputs):
    """Gradient by name; None where none reaches."""
    found = torch.autograd.grad(value, list(inputs.values()), allow_unused=True)
    return dict(zip(inputs, found, strict=True))


def _compare_gradients(f, prefix, gradients):
    """Compare those that the file has: inputs stand behind an underscore, parameters behind a point."""
    for name, gradient in gradients.items():
        array = prefix + (name if name.startswith(".") else f"_{name}")
        if array in f.arrays:
            f.close(array, np.nan if gradient is None else gradient, GRADIENT)


def _compare_norms(f, array, file, gradients, parameters):
    if array in f.arrays:
        ordered = [gradients[f".{name}"] for name in _order(f, file, parameters)]
        f.close(array, [0.0 if each is None else float(each.double().norm()) for each in ordered], GRADIENT)


def _compare_buffers(f, module, places):
    """Compare the buffers after a training pass."""
    for name, buffer in module.named_buffers():
        if (array := f"after.{_their(name, places)}") in f.arrays:
            f.close(array, buffer, VALUE)


FIXTURES = {
    "cam": _cam,
    "mask_head": _mask_head,
    "sync_bn": _sync_bn,
    "cam_param_names": _param_names,
    "mask_head_param_names": _param_names,
    "state_dict_keys_r50": _state_dict_keys,
    "state_dict_keys_r101": _state_dict_keys,
}
