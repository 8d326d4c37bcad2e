"""Compare this implementation with numbers computed with the authors' code (`tests/golden_comparison/shapeprop`).

Inputs and parameters are read from the fixtures, and so are all sizes; only the names of layers and how many there are
belong to the method. In the fixtures background is class 0; here it is the last one.
"""

from pipeline import compat  # noqa: F401  # must precede mmcv

# isort: split

from collections.abc import Iterator
from pathlib import Path

import torch
from mmdet.core.bbox.assigners import MaxIoUAssigner
from torch import Tensor, nn

from pipeline.errors import ExperimentError
from pipeline.methods.shapeprop import released_checkpoint as released
from pipeline.methods.shapeprop.mask_head import ShapePropMaskHead, positive_share
from pipeline.methods.shapeprop.propagation import NEIGHBOURS, propagate
from pipeline.methods.shapeprop.shape_head import ShapeHead
from pipeline.methods.shared.assignment import assign
from pipeline.methods.shared.golden import Check, Fixture, fixture_files, load_arrays, read_json
from pipeline.methods.shared.padded import Padded

VALUE, GRADIENT = 1e-5, 1e-4  # of an array's largest absolute value
IOU = 0.5  # from which a RoI belongs to an object
SHOWN = 4  # every how many channels of the weights the fixture holds

HEAD, MASK = "roi_heads.shapeprop.", "roi_heads.mask."  # where the authors' model has the parts of the fixtures
OUR_HEAD, OUR_MASK = "roi_head.shape_head.", "roi_head.mask_head."


def verify(directory: Path) -> Iterator[Check]:
    """Check every fixture in a directory.

    Args:
        directory: holds fixtures (`*.npz`, `*.json`), all or some; gradients need the file that they are of.

    Yields:
        One result per array.

    Raises:
        ExperimentError: there is no fixture, an unknown one, or one that cannot be read or lacks an array.
    """
    for file in fixture_files(directory):
        if file.stem not in FIXTURES:
            raise ExperimentError(f"{file}: unknown fixture; known are {', '.join(FIXTURES)}")
        kind, check = FIXTURES[file.stem]
        if file.suffix != kind:
            raise ExperimentError(f"{file}: unknown fixture; {file.stem} is a {kind} file")
        if kind == ".npz":
            fixture = Fixture(file.name, load_arrays(file), file.parent)
        else:
            content = read_json(file, dict if file.stem.startswith("state_dict") else list)
            fixture = Fixture(file.name, {"content": content}, file.parent)
        with torch.random.fork_rng():
            check(fixture)
        if file.suffix == ".npz":
            fixture.tell_unread()
        yield from fixture.checks


# Parts


def _message_passing(f):
    cases = [name.removesuffix("_steps") for name in f.arrays if name.endswith("_steps")]
    if not cases:
        raise ExperimentError(f"{f.name}: no array is named like <case>_steps; there are {', '.join(f.arrays)}")
    for case in cases:
        x, weight = f[f"{case}_x"].requires_grad_(), f[f"{case}_weight"].requires_grad_()
        steps = int(f[f"{case}_steps"])
        out = propagate(x, weight, steps)
        gradients = torch.autograd.grad((out * f[f"{case}_upstream"]).sum(), [x, weight])
        f.close(f"{case}_out", out, VALUE)
        for name, gradient in zip(("x", "weight"), gradients, strict=True):
            f.close(f"{case}_grad_{name}", gradient, GRADIENT)
        for name, latent, weights, count in (
            ("step1", x, weight, 1),
            ("ones", torch.ones_like(x), weight, steps),
            ("zero_weight", x, torch.zeros_like(weight), steps),
        ):
            if f"{case}_out_{name}" in f.arrays:
                f.close(f"{case}_out_{name}", propagate(latent, weights, count), VALUE)


def _head(f):
    run = _HeadRun(f)
    f.close("loss_activating", run.loss_activating, VALUE)
    f.close("loss_propagating", run.loss_propagating, VALUE)
    _those_there(
        f,
        act_feats_mean=run.activation_features.mean((-2, -1)),
        saliency_all=background_first(run.class_maps, 1),
        saliency=run.saliency[:, 0],
        class_logits=background_first(run.class_maps.mean((-2, -1)), 1),
        weights_sub=run.weights[:, ::SHOWN],
        embedding=run.embedding,
        passed=run.passed,
        shape_activation=run.shapes[:, 0],
    )
    labels, valid = _assigned(f)
    f.equal("roi_labels", labels)
    f.equal("valid", valid)
    f.holds("mask_targets14: one of each valid RoI", len(f.expected("mask_targets14")) == int(valid.sum()))


def _those_there(f, **outputs):
    """Compare what a layer gives with the arrays of these names; a file may do without those of the way to a loss."""
    for name, output in outputs.items():
        if name in f.arrays:
            f.close(name, output, VALUE)


class _HeadRun:
    """The shape head on the RoIs of a fixture, layer by layer.

    Attributes:
        head: `ShapeHead`.
        features: its input, which requires a gradient.
        activation_features, class_maps, saliency, weights, embedding, passed, shapes: what it computes on the way.
        loss_activating, loss_propagating: its losses.
    """

    def __init__(self, f):
        self.head = shape_head(f)
        self.features = f["roi_feats"].requires_grad_()
        self.labels = background_last(f["roi_labels"], self.head.num_classes)
        self.class_maps, self.activation_features = self.head.activate(self.features)
        self.saliency = self.head.saliency(self.class_maps, self.labels)
        self.weights = self.head.weights(self.features, self.activation_features)
        self.embedding = self.head.encoder(self.saliency)
        self.passed = propagate(self.embedding, self.weights, max(self.features.shape[-2:]))
        self.shapes = self.head.shapes(self.saliency, self.weights)
        self.loss_activating = self.head.activation_loss(self.class_maps, self.labels)
        valid = f["valid"]
        targets = self.shapes.new_zeros(len(valid), *self.shapes.shape[-2:])
        targets[valid] = f["mask_targets14"]
        self.loss_propagating = self.head.propagation_loss(self.shapes, targets, valid)


def _head_grads(f):
    run = _HeadRun(_beside(f, "head.npz"))
    names = _names(f, "head_param_names.json")
    for loss, value in (("act", run.loss_activating), ("prop", run.loss_propagating)):
        run.head.zero_grad()
        run.features.grad = None
        value.backward(retain_graph=True)
        _gradients(f, f"grad_{loss}", run.features.grad, run.head, names, HEAD, OUR_HEAD)
        reached = [_parameter(run.head, HEAD, OUR_HEAD, name)[1].grad is not None for name in names]
        f.equal(f"has_grad_{loss}", reached)


def _mask_fusion(f):
    head, features, shapes, logits, loss = _mask_run(f)
    f.close("loss_mask", loss, VALUE)
    _those_there(f, shape_normalised=positive_share(shapes), shape_encoded=head.encode(shapes), mask_logits=logits)
    positive = f["is_positive"]
    f.holds("is_positive: as many as RoIs", int(positive.sum()) == len(features))
    if (f.directory / "head.npz").is_file():
        f.equal("is_positive", _beside(f, "head.npz")["roi_labels"] > 0)
    f.holds("mask_targets28: one of each valid RoI", len(f.expected("mask_targets28")) == int(f["valid"].sum()))


def _mask_run(f):
    head = mask_head(f)
    features, shapes = f["roi_feats"].requires_grad_(), f["shape_activation"][:, None].requires_grad_()
    logits = head(features, shapes)
    valid = f["valid"]
    targets = logits.new_zeros(len(valid), *logits.shape[-2:])
    targets[valid] = f["mask_targets28"]
    return head, features, shapes, logits, head.loss(logits, targets, valid)["loss_mask"]


def _mask_fusion_grads(f):
    head, features, shapes, _, loss = _mask_run(_beside(f, "mask_fusion.npz"))
    loss.backward()
    f.close("grad_shape_activation", shapes.grad[:, 0], GRADIENT)
    _gradients(f, "grad", features.grad, head, _names(f, "mask_fusion_param_names.json"), MASK, OUR_MASK)


def _param_names(file, build, place, our_place):
    """Check a list of names: against the parameters of the file beside it, else against those of the whole model."""

    def check(f):
        if (f.directory / file).is_file():
            keys = (our_place + key for key, _ in build(_beside(f, file)).named_parameters())
        else:
            with torch.device("meta"):
                keys = (key for key, _ in released.released_model("r50").named_parameters())
        names = {released.released_key(key) for key in keys if key.startswith(our_place)}
        f.holds("names", {place + name for name in f.expected("content")} == names, "the parameters of this part")

    return check


def _state_dict_keys(backbone):
    def check(f):
        theirs = {key: tuple(shape) for key, shape in f.expected("content").items()}
        with torch.device("meta"):
            ours = released.released_model(backbone).state_dict()
        shapes = released.released_shapes(ours)
        f.holds("names", shapes.keys() == theirs.keys(), _some(shapes.keys() ^ theirs.keys()))
        f.holds("shapes", shapes == theirs, _some(k for k in theirs if shapes.get(k) != theirs[k]))
        back = {released.our_key(key) for key in theirs} - {None}
        counted = {key for key in ours if not key.endswith(released.COUNTER)}
        f.holds("names, the other way", back == counted, _some(back ^ counted))

    return check


# Modules of the sizes of a fixture, with its parameters


def shape_head(f: Fixture) -> ShapeHead:
    """Build the shape head that the parameters of a fixture are of."""
    first = f.expected("param.feature_extractor_activating.shapeprop_feature1.weight")
    latent = len(f.expected("param.encoder.encoder.0.weight"))
    weights = len(f.expected("param.propagation_weight_regressor.reg.weight"))
    head = ShapeHead(
        num_classes=len(f.expected("param.predictor.cls.weight")) - 1,
        in_channels=first.shape[1],
        num_convs=_layers(f, "param.feature_extractor_activating."),
        channels=len(first),
        latent_channels=latent,
        share_weights=weights == NEIGHBOURS != latent * NEIGHBOURS,
        share_features=not _layers(f, "param.feature_extractor_propagating."),
    )
    return _filled(head, f, HEAD, OUR_HEAD)


def mask_head(f: Fixture) -> ShapePropMaskHead:
    """Build the mask head that the parameters of a fixture are of."""
    shape_channels = len(f.expected("param.feature_extractor.encoder.0.weight"))
    first = f.expected("param.feature_extractor.mask_fcn1.weight")
    head = ShapePropMaskHead(
        in_channels=first.shape[1] - shape_channels,
        shape_convs=_layers(f, "param.feature_extractor.encoder."),
        shape_channels=shape_channels,
        num_convs=_layers(f, "param.feature_extractor.mask_fcn"),
        conv_out_channels=len(first),
    )
    return _filled(head, f, MASK, OUR_MASK)


def background_first(values: Tensor, dim: int) -> Tensor:
    """Put the last of the classes along a dimension first."""
    return values.roll(1, dim)


def background_last(labels: Tensor, num_classes: int) -> Tensor:
    """Count the authors' labels, 0 for background, as ours, `num_classes` for background."""
    return torch.where(labels > 0, labels - 1, num_classes)


def _layers(f, prefix):
    return len([name for name in f.arrays if name.startswith(prefix) and name.endswith(".weight")])


def _filled(module: nn.Module, f, place, our_place):
    state = {}
    for name in f.arrays:
        if name.startswith("param."):
            key = released.our_key(place + name.removeprefix("param."))
            if key is None:
                raise ExperimentError(f"{f.name}: array {name!r} is of no known layer")
            state[key.removeprefix(our_place)] = released.our_tensor(key, f[name])
    expected = {key: tuple(tensor.shape) for key, tensor in module.state_dict().items()}
    found = {key: tuple(tensor.shape) for key, tensor in state.items()}
    if expected != found:
        odd = _some(key for key in expected.keys() | found.keys() if expected.get(key) != found.get(key))
        raise ExperimentError(f"{f.name}: parameters do not fit together: {odd}")
    module.load_state_dict(state)
    return module


def _assigned(f):
    """Label (0 for background) and whether a mask is known of each RoI, by overlap with the objects of its image."""
    labels = torch.zeros(len(f["roi_boxes"]), dtype=torch.long)
    valid = torch.zeros(len(labels), dtype=torch.bool)
    assigner = MaxIoUAssigner(pos_iou_thr=IOU, neg_iou_thr=IOU, match_low_quality=False)
    longer = torch.tensor([0.0, 0.0, 1.0, 1.0])  # boxes there reach to the end of their last pixel
    for image in f["roi_image"].unique().tolist():
        rois, objects = f["roi_image"] == image, f["gt_image"] == image
        boxes = Padded.of([f["roi_boxes"][rois] + longer])
        owner = assign(assigner, boxes, Padded.of([f["gt_boxes"][objects] + longer]))[0]
        found = (owner > 0) & bool(objects.any())
        index = (owner - 1).clamp(min=0)
        if objects.any():
            labels[rois] = torch.where(found, f["gt_labels"][objects][index], 0)
            valid[rois] = found & f["gt_has_mask"][objects][index]
    return labels, valid


def _beside(f, name):
    file = f.directory / name
    if not file.is_file():
        raise ExperimentError(f"{file}: no such file; {f.name} holds gradients of what is computed there")
    return Fixture(name, load_arrays(file), f.directory)


def _names(f, file):
    """Names of the parameters in the order of the norms."""
    path = f.directory / file
    if not path.is_file():
        raise ExperimentError(f"{path}: no such file; it gives the order of the norms in {f.name}")
    return read_json(path, list)


def _parameter(module, place, our_place, name):
    key = released.our_key(place + name)
    return key, module.get_parameter(key.removeprefix(our_place))


def _gradients(f, prefix, of_features, module, names, place, our_place):
    """Compare the norms of all gradients, and those gradients that the fixture holds."""
    gradients = {}
    for name in names:
        key, parameter = _parameter(module, place, our_place, name)
        gradient = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
        gradients[name] = released.released_tensor(key, gradient)
    f.close(f"{prefix}_l2", [float(gradient.norm()) for gradient in gradients.values()], GRADIENT)
    if f"{prefix}_roi_feats" in f.arrays:
        f.close(f"{prefix}_roi_feats", of_features, GRADIENT)
    for array in f.arrays:
        if array.startswith(f"{prefix}."):
            if (name := array.removeprefix(f"{prefix}.")) not in gradients:
                raise ExperimentError(f"{f.name}: array {array!r} is of no parameter in the list of names")
            f.close(array, gradients[name], GRADIENT)


def _some(names):
    names = sorted(names)
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


FIXTURES = {
    "message_passing": (".npz", _message_passing),
    "head": (".npz", _head),
    "head_grads": (".npz", _head_grads),
    "mask_fusion": (".npz", _mask_fusion),
    "mask_fusion_grads": (".npz", _mask_fusion_grads),
    "head_param_names": (".json", _param_names("head.npz", shape_head, HEAD, OUR_HEAD)),
    "mask_fusion_param_names": (".json", _param_names("mask_fusion.npz", mask_head, MASK, OUR_MASK)),
    "state_dict_keys_r50": (".json", _state_dict_keys("r50")),
    "state_dict_keys_r101": (".json", _state_dict_keys("r101")),
}
