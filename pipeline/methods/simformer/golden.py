"""Compare this implementation with numbers computed with the authors' released code (fixtures of SimFormer and RETAB).

Each fixture is a file of arrays; inputs are read from it or drawn by name (`golden_numbers`), sizes are read from it.
All comparisons go through the modules that train and predict. Imported by no training.
"""

from pipeline import compat  # noqa: F401  # must precede mmcv

# isort: split

import math
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import numpy as np
import torch
from mmcv.cnn.bricks.transformer import build_positional_encoding
from torch import nn

from pipeline import methods
from pipeline.errors import ExperimentError
from pipeline.methods.shared.golden import Check, Fixture, fixture_files, load_arrays, read_json
from pipeline.methods.simformer import golden_retab
from pipeline.methods.simformer.detector import inside, label_map, original
from pipeline.methods.simformer.golden_numbers import image, noise, uniform, value
from pipeline.methods.simformer.head import Predictions
from pipeline.methods.simformer.losses import dice_loss, focal_loss
from pipeline.methods.simformer.matching import assigned, cost_matrix, mask_costs
from pipeline.methods.simformer.optimisation import optimisation
from pipeline.methods.simformer.pairs import PairTable
from pipeline.methods.simformer.pixel_pairs import PixelPairs, pixel_pairs
from pipeline.methods.simformer.points import (
    SHARE_OTHER,
    SHARE_SAME,
    Cells,
    base_points,
    common_classes,
    drawn_class,
    regions,
    top_points,
)
from pipeline.methods.simformer.released_checkpoint import (
    OURS_ALONE,
    PAIRS,
    our_key,
    released_config,
    released_key,
    released_model,
)
from pipeline.methods.simformer.similarity import SimilarityNet
from pipeline.methods.simformer.sizes import Sizes
from pipeline.methods.simformer.targets import IGNORE, nearest, targets_of
from pipeline.tasks.semantic import iou
from pipeline.tasks.semantic.augmentation import FormatImage, FormatScene, PadScene
from pipeline.tasks.semantic.pseudo import pseudo_map
from pipeline.tasks.semantic.steps import IMAGE_NORM, PAD_VALUE
from pipeline.training.schedule import Schedule
from pipeline.training.update import Update

PART = 1e-5  # of an array's largest absolute value
GRADIENT = 1e-4  # the same for gradients and their norms
PROBE = 1e-3, 1e-4  # inner products of gradients: of the gradient's norm, plus absolute
NET = "panoptic_head.pixel_pairs.net."  # where the similarity net lies
SMALL = Sizes(channels=8, queries=4, decoder_layers=1, heads=2, feedforward=8, norm_groups=2, similarity_channels=8)
FOCAL, COMPLEMENTARY = 20.0, 0.15  # weights of the released COCO configuration
POINTS = 100  # J of the released configuration


def verify(directory: Path) -> Iterator[Check]:
    """Check every fixture in a directory.

    Args:
        directory: holds fixtures (`*.npz`, `*.json`), all or some; those that are about the same images need
            `targets.npz` beside them.

    Yields:
        One result per array.

    Raises:
        ExperimentError: there is no fixture, an unknown one, or one that cannot be read or lacks an array.
    """
    directory = Path(directory)
    for file in fixture_files(directory):
        compared = FIXTURES.get(file.name) or golden_retab.FIXTURES.get(file.name)
        if compared is None:
            raise ExperimentError(
                f"{file}: unknown fixture; known are {', '.join([*FIXTURES, *golden_retab.FIXTURES])}"
            )
        content = load_arrays(file) if file.suffix == ".npz" else read_json(file, dict)
        fixture = Fixture(file.name, content, directory)
        with torch.random.fork_rng():
            compared(fixture)
        if file.suffix == ".npz":
            fixture.tell_unread()
        yield from fixture.checks


# Images and their targets


def _images(directory):
    """The arrays of targets.npz. Raises ExperimentError without it."""
    file = directory / "targets.npz"
    if not file.exists():
        raise ExperimentError(f"{file}: no such file, whose images others are about; put it there")
    return Fixture(file.name, load_arrays(file), directory)


def _numbered(fixture, prefix):
    return sorted(int(match[1]) for name in fixture.arrays if (match := re.fullmatch(rf"{prefix}_(\d+)", name)))


def _padded(images, number, size):
    """Image, hidden map and novel labels of one crop, padded as for training: what the task's steps give."""
    label_map, novel = images.expected(f"label_map_{number}"), images.expected("novel_classes")
    shown = {
        "img": image(f"img{number}", *label_map.shape),
        "gt_semantic_seg": np.where(np.isin(label_map, novel), IGNORE, label_map).astype(np.uint8),
        "novel_map": label_map,
    }
    return PadScene(list(size), 1, PAD_VALUE)(shown)


def _novel_labels(images, label_map):
    shown = np.unique(label_map)
    return torch.from_numpy(shown[np.isin(shown, images.expected("novel_classes"))].astype(np.int64))


def _batch(images, numbers, all_masks=False):
    """Targets and the part that is no padding of some images."""
    size = images.expected(f"labels_padded_{numbers[0]}").shape
    padded = [_padded(images, number, size) for number in numbers]
    maps = np.stack([each["novel_map" if all_masks else "gt_semantic_seg"] for each in padded])
    labels = None if all_masks else [_novel_labels(images, each["novel_map"]) for each in padded]
    targets = targets_of(torch.from_numpy(maps), labels, int(images.expected("num_classes")))
    shapes = [{"img_shape": each["img_shape"]} for each in padded]
    return targets, inside(shapes, torch.zeros(len(numbers), 1, *size))


def _targets(f):
    for number in _numbered(f, "label_map"):
        size = f.expected(f"labels_padded_{number}").shape
        padded = _padded(f, number, size)
        f.equal(f"image_{number}", padded["img"].transpose(2, 0, 1)[:, ::8, ::8])
        f.equal(f"labels_padded_{number}", padded["novel_map"])
        for prefix in ("", "retraining_"):
            targets, valid = _batch(f, [number], all_masks=bool(prefix))
            count = int(targets.counts[0])
            f.equal(f"{prefix}labels_{number}", targets.labels[0, :count])
            f.equal(f"{prefix}has_masks_{number}", targets.has_mask[0, :count])
        targets, valid = _batch(f, [number])
        f.equal(f"pad_region_{number}", ~valid[0])
        f.equal(f"masks_{number}", targets.masks()[0, : targets.counts[0]])


# Matching and losses


def _matcher(f):
    images, numbers = _images(f.directory), _numbered(f, "cost")
    logits, masks = f["pred_logits"], f["pred_masks"]
    for place, number in enumerate(numbers):
        targets, _ = _batch(images, [number])
        small = targets.masks(masks.shape[-2:])
        prediction = logits[place : place + 1], masks[place : place + 1]
        costs = cost_matrix(*prediction, targets, small, FOCAL, 1.0)
        _, queries, columns, *_ = assigned(costs.numpy(), targets)
        count = int(targets.counts[0])  # of an image without any, the targets are padded with one
        costs, small = costs[..., :count], small[:, :count]
        order = f.expected(f"column_order_{number}") if f"column_order_{number}" in f.arrays else None
        f.equal(f"query_{number}", queries)
        if order is None:
            f.close(f"cost_{number}", costs[0], PART)
            f.equal(f"target_{number}", columns)
        else:  # a fault there: columns are in another order than the targets that they are taken for
            f.close(f"cost_{number}", costs[0][:, order], PART)
            f.equal(f"target_{number}", np.argsort(order)[columns])
            f.equal(f"target_{number}_original_order", columns)
        if f"focal_{number}" in f.arrays:
            f.equal(f"masks_nearest_{number}", small[0])
            for name, got in zip(("focal", "dice"), mask_costs(prediction[1], small), strict=True):
                f.close(f"{name}_{number}", got[0], PART)


GROUPS = {"mixed": "criterion", "retraining": "criterion_re", "novel_only": "criterion_n", "base_only": "criterion_b"}


def _criterion(f):
    images = _images(f.directory)
    f.close("focal_sum_over_5_masks", focal_loss(f["focal_inputs"], f["focal_targets"]).sum() / 5, PART)
    f.close("dice_sum_over_5_masks", dice_loss(f["focal_inputs"], f["focal_targets"]).sum() / 5, PART)
    for group in sorted({name.split("/")[0] for name in f.arrays if "/" in name}):
        if group not in GROUPS:
            raise ExperimentError(f"{f.name}: unknown group {group!r}; known are {', '.join(GROUPS)}")
        _criterion_group(f, images, group)


def _criterion_group(f, images, group):
    classes = f.expected(f"{group}/grad_loss_cls_a_logits").shape
    gradients = [name for name in f.arrays if re.fullmatch(rf"{group}/grad_loss_\w+_masks", name)]
    cells = f.expected(gradients[0]).shape
    layers = sum(re.fullmatch(rf"{group}/loss_cls_a(_\d+)?", name) is not None for name in f.arrays)
    targets, valid = _batch(images, _members(images, group, classes[0]), group == "retraining")
    logits = [uniform(f"{GROUPS[group]}/logits{layer}", classes, 4).requires_grad_() for layer in range(layers)]
    masks = [uniform(f"{GROUPS[group]}/masks{layer}", cells, 6).requires_grad_() for layer in range(layers)]
    head = _head(classes[2] - 1, supervision="all" if group == "retraining" else "base")
    predictions = Predictions(torch.stack(logits), torch.stack(masks), None)
    losses = head.loss(predictions, targets, valid)
    for layer in range(layers):
        last = layer == layers - 1
        raw = _raw(losses, "" if last else f"d{layer}.")
        for name, loss in raw.items():
            f.close(f"{group}/{name}" + ("" if last else f"_{layer}"), loss, PART)
            if not last:
                continue
            for what, leaf in (("logits", logits[-1]), ("masks", masks[-1])):
                found = torch.autograd.grad(loss, leaf, retain_graph=True, allow_unused=True)[0]
                array = f"grad_{name}_{what}"
                if f"{group}/{array}" in f.arrays:
                    f.close(f"{group}/{array}", found, GRADIENT)
                else:
                    f.holds(f"{group}/{array} is zero", found is None or not found.any())
    total = sum(losses.values())
    f.close(f"{group}/total", total, PART)
    total.backward()
    for layer in range(layers):
        for what, leaf in (("logits", logits[layer]), ("masks", masks[layer])):
            array = f"{group}/grad_total_{what}{layer}"
            f.close(f"{array}_l2", leaf.grad.norm(), GRADIENT)
            probe = (leaf.grad.double() * uniform(f"probe/{what}", leaf.shape).double()).sum()
            f.close(f"{array}_dot", probe, 0, PROBE[0] * f.expected(f"{array}_l2") + PROBE[1])
    f.equal(f"{group}/num_masks", head.normaliser(predictions, targets).long())
    order = f.expected(f"{group}/matched_order_layers")
    f.holds(f"{group}/matched_order_layers", sorted(order.tolist()) == list(range(layers)), "(ours: all at once)")


def _members(images, group, count):
    """The images of a group: the first ones, or the first with nothing but novel or base classes."""
    numbers = _numbered(images, "has_masks")
    if group in ("mixed", "retraining"):
        return numbers[:count]
    wanted = group == "base_only"
    alone = [n for n in numbers if set(images.expected(f"has_masks_{n}").tolist()) == {wanted}]
    return alone[:count]


def _raw(losses, prefix):
    """Losses of one layer under the released names, unweighted; the complementary one keeps those of its parts."""
    weights = {"loss_cls_a": ("loss_cls", 1.0), "loss_mask_m": ("loss_mask", FOCAL), "loss_mask_d": ("loss_dice", 1.0)}
    weights["loss_comp"] = "loss_complementary", COMPLEMENTARY
    return {name: losses[prefix + ours] / weight for name, (ours, weight) in weights.items() if prefix + ours in losses}


@cache
def _head(num_classes, sizes=SMALL, **knobs):
    return released_model(num_classes, sizes=sizes, **{"pairs": "none"} | knobs).panoptic_head


# The similarity net and pixel pairs


def _net(in_channels, width, blocks, prefix):
    net = SimilarityNet(in_channels, width, blocks)
    _fill(net, NET, lambda key: prefix + key.removeprefix(PAIRS))
    return net


def _fill(module, place, named=lambda key: key):
    """Set every parameter and buffer of a part to the number that its released name stands for."""
    state = module.state_dict()
    for key, tensor in state.items():
        released = released_key(place + key)
        if released and not released.startswith(("criterion.empty", "criterion.ingore")):
            state[key] = value(named(released), tensor.shape)
    module.load_state_dict(state)


def _named_parameters(net, names):
    """Parameters of the net in the order of released names."""
    ours = dict(net.named_parameters())
    return [ours[our_key(PAIRS + str(name)).removeprefix(NET)] for name in names]


def _norm_and_probes(f, prefix, names, gradients):
    norms = [gradient.norm() for gradient in gradients]
    f.close(f"{prefix}_l2", torch.stack(norms), GRADIENT)
    probes = [
        (gradient.double() * uniform(f"probe/{name}", gradient.shape).double()).sum()
        for name, gradient in zip(names, gradients, strict=True)
    ]
    f.close(f"{prefix}_dot", torch.stack(probes), 0, PROBE[0] * f.expected(f"{prefix}_l2") + PROBE[1])


def _simnet(f):
    names, running = f.expected("param_names"), f.expected("bn_names")
    batch, _, rows, columns = f.expected("train").shape
    width = f.expected("bn_running").shape[1]
    parts = f.expected("grad_x_sub").shape[1]
    channels = 2 * width if -(-2 * width // 32) == parts else 32 * parts
    net = _net(channels, width, len({str(name).split(".")[2] for name in running}), "simnet.")
    x = uniform("simnet/x", (batch, channels, rows, columns)).requires_grad_()
    f.close("eval", _maps(net.eval(), x), PART)
    got = _maps(net.train(), x)
    f.close("train", got, PART)
    got.backward(uniform("simnet/up", got.shape))
    _norm_and_probes(f, "grad", names, [p.grad for p in _named_parameters(net, names)])
    f.close("grad_x_sub", x.grad[:, ::32], GRADIENT)
    buffers = dict(net.named_buffers())
    f.close(
        "bn_running", torch.stack([buffers[our_key(PAIRS + str(name)).removeprefix(NET)] for name in running]), PART
    )
    for name in f.arrays:
        if match := re.fullmatch(r"small_eval_in(\d+)_mid(\d+)_layers(\d+)", name):
            ins, mid, blocks = map(int, match.groups())
            x = uniform("simnet2/x", (f.expected(name).shape[0], ins, *f.expected(name).shape[2:]))
            f.close(name, _maps(_net(ins, mid, blocks, "simnet2.").eval(), x), PART)
    pairs = _pixel_pairs(POINTS)
    weights = [torch.stack(pairs.balance.weights())]
    for same in f["balance_maps"]:
        pairs.count(same, torch.ones_like(same))
        weights.append(torch.stack(pairs.balance.weights()))
    f.close("balance_weights_neg_pos", torch.stack(weights), PART)


def _maps(net, x):
    """Probabilities [B, 1, h, w] of maps of pairs [B, 2C, h, w]."""
    rows = x.permute(0, 2, 3, 1).flatten(0, 2)
    return net(rows).sigmoid().view(len(x), 1, *x.shape[2:])


def _pixel_pairs(points, channels=256, width=256, blocks=3, **changed) -> PixelPairs:
    """Of the released configuration, filled as the fixtures are, training."""
    options = {
        "similarity_weight": 1.0,
        "distillation_weight": 0.1,
        "distillation": "cce",
        "student": "same_image",
        "detach_embedding": True,
        "detach_teacher": True,
        "teacher_statistics": True,
        "balance_pairs": "all",
        "exchange_balance": False,
    }
    pairs = PixelPairs(channels, width, blocks, points, **options | changed).train()
    _fill(pairs.net, NET, lambda key: "simnet." + key.removeprefix(PAIRS))
    return pairs


# The images of a group; others where their labels tell so.
MEMBERS = {"common": (0, 1), "undetached": (0, 1), "no_common": (0, 3), "common_novel_only": (0, 2), "self": (0, 0)}


def _pairs(f):
    images = _images(f.directory)
    for group in sorted({name.split("/")[0] for name in f.arrays if name.endswith("/region_pos")}):
        if group not in MEMBERS:
            raise ExperimentError(f"{f.name}: unknown group {group!r}; known are {', '.join(MEMBERS)}")
        _pairs_group(f, images, group)


def _complete(images, numbers, targets, valid, size):
    """Cells with the labels of novel pixels, which the released class balance counts; and without, as in training."""
    padded = [images.expected(f"labels_padded_{number}") for number in numbers]
    true = nearest(torch.from_numpy(np.stack(padded)).long(), size)
    cells = Cells.of(targets, valid, size)
    return Cells(true, cells.base, cells.inside), cells


def _pairs_group(f, images, group):
    prefix = "pair" if group == "common" else f"pair_{group}"
    size = f.expected(f"{group}/labels_s4").shape[1:]
    novel = images.expected("novel_classes").tolist()
    queries, num_classes = _queries(f), int(images.expected("num_classes"))
    parts = [f.expected(f"{group}/points_{part}").shape[1] for part in ("pos", "neg")]
    members = _pair_of(f, images, group, size)
    targets, valid = _batch(images, members)
    cells, hidden = _complete(images, members, targets, valid, size)
    is_novel = torch.isin(cells.labels, torch.tensor(novel))
    f.equal(f"{group}/labels_s4", cells.labels)
    f.equal(f"{group}/is_base", hidden.base)
    f.equal(f"{group}/is_pad", ~hidden.inside)
    f.equal(f"{group}/is_novel", is_novel)
    f.equal(f"{group}/is_ignore", ~hidden.base & ~is_novel)
    undetached = group == "undetached"
    options = {"detach_embedding": not undetached, "detach_teacher": not undetached}
    channels = 256
    points_each = _points_of(f, group, parts)
    pairs = _pixel_pairs(points_each, channels, **options)
    noises = [noise(f"{prefix}/noise{k}", (2, 1, *size))[:, 0] for k in range(3)]
    common = torch.from_numpy(common_classes(targets.has_class[:, 0]))
    picked = _picked(f, group, hidden, common)
    numbers = {"class": picked, "same": noises[0], "other": noises[1], "novel": noises[2]}
    pairs.numbers = lambda purpose, shape, device: numbers[purpose]
    found = regions(hidden, *drawn_class(common, picked))
    for part, region, which, count in zip(("pos", "neg"), found, noises, parts, strict=False):
        f.equal(f"{group}/region_{part}", region)
        f.equal(f"{group}/points_{part}", _places(top_points(region, which, count), size))
    points = base_points(*found, tuple(noises[:2]), points_each)
    embedding = uniform(f"{prefix}/features", (2, channels, *size)).requires_grad_()
    f.close(f"{group}/similarity", pairs.compared(embedding, points, track=False).sigmoid(), PART)
    f.equal(f"{group}/same_class", pixel_pairs(cells, points)[0])
    loss = pairs.similarity_loss(embedding, cells, common)
    f.close(f"{group}/loss_cro_sim", loss, PART)
    f.close(f"{group}/weights_neg_pos", torch.stack(pairs.balance.weights()), PART)
    loss.backward()
    names = _released_parameters(pairs.net)
    _norm_and_probes(f, f"{group}/sim_grad", names, [p.grad for p in _named_parameters(pairs.net, names)])
    if undetached:
        f.close(f"{group}/grad_features_sub", embedding.grad[:, ::64], GRADIENT)
        f.close(f"{group}/grad_features_l2", embedding.grad.norm(), GRADIENT)
    else:
        f.holds(f"{group}/grad_features is zero", embedding.grad is None)
    shared = common_classes(targets.has_class[:, 1]).any(1)
    if shared.any():
        points = top_points(~hidden.base, noises[2], points_each)
        f.equal(f"{group}/region_distill", ~hidden.base)
        f.equal(f"{group}/points_distill", _places(points, size))
        f.close(f"{group}/teacher", pairs.compared(embedding, points, track=False).sigmoid(), PART)
    forms = {
        name.split("/")[0] for name in f.arrays if re.fullmatch(rf"{group}(_(ce|cce|b[\d.]+))?/loss_cro_dit", name)
    }
    for place, form in enumerate(sorted(forms)):
        pairs.distillation = form.removeprefix(group).lstrip("_") or "cce"
        pairs.teacher_statistics = place == 0
        logits = uniform(f"{prefix}/logits", (2, queries, num_classes + 1), 4).requires_grad_()
        masks = uniform(f"{prefix}/masks", (2, queries, *size), 4).requires_grad_()
        loss = pairs.distillation_loss(embedding, logits, masks, hidden, shared, novel)
        f.close(f"{form}/loss_cro_dit", loss, PART)
        loss.backward()
        for what, leaf in (("logits", logits), ("masks", masks)):
            if f"{form}/grad_dit_{what}" in f.arrays:
                f.close(f"{form}/grad_dit_{what}", leaf.grad, GRADIENT)
            else:
                f.holds(f"{form}/grad_dit_{what} is zero", not leaf.grad.any())
    norm = pairs.net.blocks[0].norm1
    f.close(f"{group}/bn_running_block0_bn1", torch.stack([norm.running_mean, norm.running_var]), PART)


def _queries(f):
    """Q, where a gradient tells it; where none is there, none depends on it."""
    return next((f.expected(name).shape[1] for name in f.arrays if name.endswith("grad_dit_logits")), 1)


def _pair_of(f, images, group, size):
    """The two images of a group: the first ones of their labels, those of `MEMBERS` where several have them."""
    shown = {
        number: nearest(torch.from_numpy(images.expected(f"labels_padded_{number}"))[None].long(), size)[0]
        for number in _numbered(images, "labels_padded")
    }
    found = []
    for labels, usual in zip(f[f"{group}/labels_s4"], MEMBERS[group], strict=True):
        alike = [number for number, cells in shown.items() if torch.equal(cells, labels.long())]
        found.append(usual if usual in alike or not alike else alike[0])
    return tuple(found)


def _points_of(f, group, parts):
    """J of a group; where no array has as many, the least whose parts are these."""
    if (array := f"{group}/points_distill") in f.arrays:
        return f.expected(array).shape[1]
    shares = (SHARE_SAME, SHARE_OTHER)
    return next((n for n in range(1, 5 * max(parts) + 5) if [int(share * n) for share in shares] == parts), sum(parts))


def _released_parameters(net):
    return sorted(released_key(NET + name).removeprefix(PAIRS) for name, _ in net.named_parameters())


def _places(points, size):
    """[B, J, 2] row and column of cells [B, J]."""
    return torch.stack([points // size[1], points % size[1]], dim=-1)


def _picked(f, group, cells, common):
    """Numbers [P, K] that draw the class that the released code has drawn: the one whose cells are its region."""
    region = f[f"{group}/region_pos"]
    for label in range(common.shape[1]):
        if common[0, label] and torch.equal(cells.base & (cells.labels == label), region):
            return nn.functional.one_hot(torch.tensor([label]), common.shape[1]).float()
    return torch.full(common.shape, 0.5)


# Inference, position, scores


def _inference(f):
    logits, masks = f["pred_logits"], f["pred_masks"]
    head = _head(logits.shape[1] - 1)
    predictions = Predictions(logits[None, None], masks[None, None], None)
    scores = head.class_scores(predictions, tuple(f.expected("padded_size").tolist()))[0]
    f.close("scores_sub", scores[:, ::8, ::8], PART)
    meta = {"img_shape": f.expected("image_size").tolist(), "ori_shape": f.expected("output_size").tolist()}
    scores = original(scores, meta)
    f.close("scores_out_sub", scores[:, ::8, ::8], PART)
    f.equal("prediction", label_map(scores), ~f.expected("margin_below_1e6"))


def _position(f):
    for name in f.arrays:
        rows, columns, kind = re.fullmatch(r"pos_(\d+)x(\d+)_(\w+)", name).groups()
        channels = f.expected(name).shape[0] * (8 if kind == "sub" else 1)
        encoding = build_positional_encoding(
            {"type": "SinePositionalEncoding", "num_feats": channels // 2, "normalize": True}
            if kind != "sub"
            else released_config(sizes=Sizes(channels=channels))["panoptic_head"]["positional_encoding"]
        )
        got = encoding(torch.zeros(1, int(rows), int(columns), dtype=torch.bool))[0]
        f.close(name, got[:: 8 if kind == "sub" else 1], PART)


def _evaluation(f):
    novel, numbers = f.expected("novel_classes").tolist(), _numbered(f, "gt")
    num_classes = f.expected("confusion").shape[0] - 1
    base = [label for label in range(num_classes) if label not in novel]
    counts = sum(
        iou.confusion(f.expected(f"pred_{n}"), f.expected(f"gt_{n}"), num_classes).astype(np.int64) for n in numbers
    )
    f.equal("confusion", np.pad(counts, (0, 1)), np.s_[:num_classes, :num_classes])
    found = iou.summary(counts, base, novel)
    for array, got in (("iou64", found["iou"]), ("acc64", found["accuracy"])):
        defined = ~np.isnan(f.expected(array))
        f.holds(f"{array} is defined", np.array_equal(defined, ~np.isnan(got)))
        f.close(array, got, PART, part=defined)
    for array, got in _scores(found, counts).items():
        if np.isnan(f.expected(array)):  # no class of a group
            f.holds(f"{array} is undefined", bool(np.isnan(got)))
        else:
            f.close(array, got, PART)
    for number in numbers:
        truth = f.expected(f"gt_{number}")
        base_map = np.where(np.isin(truth, novel), IGNORE, truth)
        shown = np.unique(truth[np.isin(truth, novel)])
        f.equal(f"pseudo_{number}", pseudo_map(f.expected(f"pred_{number}"), base_map, shown))


def _scores(found, counts):
    """Numbers of `iou.summary` under the released names."""
    defined = found["iou"][~np.isnan(found["iou"])]
    seen = ((counts.sum(0) > 0) | (counts.sum(1) > 0)).sum()  # with pixels in truth or prediction
    return {
        "mIoU_64": defined.sum() / seen,  # as released (D14); ours divides by the classes that have a truth
        "fwIoU_64": found["frequency_weighted_IoU"],
        "mACC_64": found["mean_accuracy"],
        "pACC_64": found["pixel_accuracy"],
        "BaseIoU_64": found["base_mIoU"],
        "NovelIoU_64": found["novel_mIoU"],
        "BaseACC_64": found["base_accuracy"],
        "NovelACC_64": found["novel_accuracy"],
    }


# The whole model


def _model(num_classes, **knobs):
    model = released_model(num_classes, sizes=Sizes(dropout=0.0), **knobs)
    _fill(model, "")
    return model


def _model_test(f):
    output = tuple(f.expected("output_size").tolist())
    num_classes = f.expected("pred_logits").shape[-1] - 1
    picture = _picture(f.expected("image"), output)
    f.equal("image", picture[::8, ::8])
    item = FormatImage(divisor=32, **IMAGE_NORM)(
        {"img": picture, "file_name": "model", "ori_shape": output, "flip": False}
    )
    model = _model(num_classes)
    model.eval()
    with torch.no_grad():
        features = model.extract_feat(item["img"][None])
        predictions = model.panoptic_head(features)
        scores = model.class_scores(item["img"][None], [item["img_metas"]])[0]
    for level, feature in enumerate(features, 2):
        f.close(f"res{level}_mean_std", torch.stack([feature.mean(), feature.std()]), PART)
        step = feature.shape[1] // f.expected(f"res{level}_sub").shape[0]
        f.close(f"res{level}_sub", feature[0, ::step, ::2, ::2], PART)
    embedding = predictions.embedding
    f.close("pixel_embedding_sub", embedding[0, ::32], PART)
    f.close("pixel_embedding_mean_std", torch.stack([embedding.mean(), embedding.std()]), PART)
    f.close("pred_logits", predictions.logits[:, 0, ::10], PART)
    f.close("pred_masks_sub", predictions.masks[:, 0, ::25, ::2, ::2], PART)
    f.close("scores_sub", scores[:, ::16, ::16], PART)
    f.equal("prediction", label_map(scores), ~f.expected("margin_below_1e5"))


def _picture(part, output):
    """The image of which every eighth pixel is known; of the sizes that it may have, that most like `output`'s."""
    ratio = output[0] / output[1]
    sizes = [(rows, columns) for rows in _sides(part.shape[0]) for columns in _sides(part.shape[1])]
    for size in sorted(sizes, key=lambda size: (abs(size[0] / size[1] - ratio), -size[0])):
        picture = image("model", *size)
        if np.array_equal(picture[::8, ::8], part):
            return picture
    return image("model", *(8 * side for side in part.shape[:2]))


def _sides(eighth):
    return range(8 * eighth, 8 * eighth - 8, -1)


def _model_train(f):
    images = _images(f.directory)
    shown = [set(np.unique(images.expected(f"label_map_{number}")).tolist()) - {IGNORE} for number in (0, 1)]
    common = sorted(set.intersection(*shown) - set(images.expected("novel_classes").tolist()))
    # The file does not say which of several common base classes was drawn.
    for label in common or [0]:
        model, losses = _trained(f, images, label)
        expected = f.expected("raw/loss_cro_sim")
        if label == (common or [0])[-1] or np.isclose(losses["loss_similarity"].item(), expected, rtol=PART, atol=0):
            break
    _compare_training(f, model, losses)


def _trained(f, images, drawn):
    """Model and losses of the pair of images 0 and 1, whose points are drawn from one class."""
    num_classes = int(images.expected("num_classes"))
    model = _model(num_classes, points=POINTS, distillation_weight=0.1)
    model.train()
    names = {"same": 0, "other": 1, "novel": 2}

    def numbers(purpose, shape, device):
        if purpose in names:
            return noise(f"model/noise{names[purpose]}", (2, 1, *shape[1:]))[:, 0]
        return nn.functional.one_hot(torch.tensor([drawn]), shape[1]).float()

    model.panoptic_head.pixel_pairs.numbers = numbers
    size = images.expected("labels_padded_0").shape
    hidden, complete, metas, labels = [], [], [], []
    for number in (0, 1):
        padded = _padded(images, number, size)
        item = FormatScene(**IMAGE_NORM)(padded | {"file_name": str(number), "novel_classes": ()})
        metas.append(item["img_metas"].data | {"novel_classes": images.expected("novel_classes").tolist()})
        hidden.append(item["gt_semantic_seg"].data)
        complete.append(item["img"].data)
        labels.append(_novel_labels(images, padded["novel_map"]))
    # The released class balance counts pairs of novel pixels by their true labels.
    true = torch.from_numpy(np.stack([images.expected(f"labels_padded_{n}") for n in (0, 1)])).long()
    of, Cells.of = Cells.of, classmethod(lambda cls, targets, valid, size: _with_labels(of(targets, valid, size), true))
    try:
        losses = model.forward_train(torch.stack(complete), metas, torch.stack(hidden), labels)
    finally:
        Cells.of = of
    return model, losses


def _compare_training(f, model, losses):
    head = model.panoptic_head
    layers = sum(name.endswith("loss_cls") for name in losses)
    for layer in range(layers):
        last = layer == layers - 1
        for name, loss in _raw(losses, "" if last else f"d{layer}.").items():
            f.close(f"raw/{name}" + ("" if last else f"_{layer}"), loss, PART)
    f.close("raw/loss_cro_sim", losses["loss_similarity"], PART)
    f.close("raw/loss_cro_dit", losses["loss_distillation"] / head.pixel_pairs.distillation_weight, PART)
    total = sum(losses.values())
    f.close("total", total, PART)
    total.backward()
    parameters = {released_key(name): parameter for name, parameter in model.named_parameters()}
    keys = [str(name) for name in f.expected("param_names")]
    trained = {key for key, parameter in parameters.items() if parameter.grad is not None}
    f.holds("param_names", set(keys) == trained, f"({len(set(keys) ^ trained)} differ)" if set(keys) ^ trained else "")
    if set(keys) <= trained:
        _norm_and_probes(f, "grad", keys, [parameters[key].grad for key in keys])
    norm = torch.stack([parameter.grad.norm() for parameter in parameters.values() if parameter.requires_grad]).norm()
    f.close("total_grad_norm", norm, GRADIENT)
    without = {our_key(str(name)) for name in f.expected("no_grad_names")}
    f.holds("no_grad_names", without <= {name for name, _ in model.named_buffers()}, "(buffers here)")
    running = {name: buffer for name, buffer in head.pixel_pairs.net.named_buffers() if "running" in name}
    order = sorted(running, key=lambda name: released_key(NET + name))
    f.close("simnet_bn_running", torch.stack([running[name] for name in order]), PART)


def _with_labels(cells, true):
    return Cells(nearest(true, cells.base.shape[1:]), cells.base, cells.inside)


# Optimiser, names, pair table

LENGTHS = {"coco": 60_000, "ade": 160_000, "resume": 5_000}
RATES = {"coco": 1e-4, "ade": 1e-4, "resume": 1e-5}


def _settings(rate=1e-4):
    given = {"optimizer": {"type": "AdamW", "lr": rate, "betas": [0.9, 0.999], "weight_decay": 1e-4}}
    released = methods.method("simformer").preset("released")
    return optimisation(given | {"precision": "fp32", "grad_clip": 0.01, "lr_policy": "poly"}, released)


def _optimizer(f):
    for name, length in LENGTHS.items():
        if f"{name}_iteration" in f.arrays:
            schedule = Schedule(length, (), 0, _settings()["lr_policy"], 1.0)
            rates = [schedule.rate(RATES[name], int(iteration)) for iteration in f.expected(f"{name}_iteration")]
            f.close(f"{name}_lr64", np.array(rates), 1e-12)
    names = [str(name) for name in f.expected("toy_group_names")]
    toy = _toy({name: f.expected(f"toy/{name}/0").shape for name in names})
    update = Update(toy, _settings(), 1)
    groups = {id(p): (g["lr"], g["weight_decay"]) for g in update.optimizer.param_groups for p in g["params"]}
    parameters = dict(toy.named_parameters())
    f.close("toy_group_lr_wd64", np.array([groups[id(parameters[name])] for name in names]), 1e-12)
    steps = max(int(name.rsplit("/", 1)[1]) for name in f.arrays if name.startswith("toy/"))
    schedule = Schedule(LENGTHS["coco"], (), 0, "poly", 1.0)
    for step in range(steps + 1):
        for name in names:
            f.close(f"toy/{name}/{step}", parameters[name], PART)
        if step == steps:
            break
        scale = (0.02, 0.02, 0.0005)[min(step, 2)]
        update.set_rates(lambda rate, step=step: schedule.rate(rate, step))
        for name, parameter in parameters.items():
            parameter.grad = uniform(f"toygrad{step}/{name}", parameter.shape, scale)
        update.apply()


def _toy(shapes):
    """A model with these parameters, of the kinds that their names stand for."""
    toy = nn.Module()
    toy.backbone = nn.Sequential(nn.Linear(*reversed(shapes["backbone.0.weight"])))
    toy.norm = nn.LayerNorm(shapes["norm.weight"])
    toy.query_embed = nn.Embedding(*shapes["query_embed.weight"])
    toy.head = nn.Linear(*reversed(shapes["head.weight"]))
    toy.load_state_dict({key: value(f"toy.{key}", tensor.shape) for key, tensor in toy.state_dict().items()})
    return toy


def _param_groups(f):
    model = released_model()
    update = Update(model, _settings(), 1)
    groups = {id(p): (g["lr"], g["weight_decay"]) for g in update.optimizer.param_groups for p in g["params"]}
    ours = {released_key(n): groups[id(p)] for n, p in model.named_parameters() if p.requires_grad}
    for key, wanted in f.arrays.items():
        got = ours.pop(key, None)
        f.holds(key, got is not None and np.allclose(got, wanted, rtol=1e-9, atol=0), f"({got}, expected {wanted})")
    f.holds("no other parameter trains", not ours, ", ".join(ours))


def _state_dict_keys(f):
    classes = f.arrays["sem_seg_head.predictor.class_embed.bias"][0] - 1
    ours = {key: list(tensor.shape) for key, tensor in released_model(classes).state_dict().items()}
    for key, shape in f.arrays.items():
        mapped = our_key(key)
        f.holds(key, ours.pop(mapped, None) == shape and released_key(mapped) == key, f"(ours {mapped})")
    f.holds("no other key", all(OURS_ALONE.fullmatch(key) for key in ours), ", ".join(ours)[:200])


def _simnet_state_dict(f):
    width = f.arrays["out_head.weight"][1]
    first = f.arrays["fc_branch.layers.block0.layer1.weight"][1]
    blocks = len({key.split(".")[2] for key in f.arrays if key.startswith("fc_branch")})
    ours = {NET + key: list(tensor.shape) for key, tensor in SimilarityNet(first, width, blocks).state_dict().items()}
    for key, shape in f.arrays.items():
        f.holds(key, ours.pop(our_key(PAIRS + key), None) == shape)
    f.holds("no other key", not ours, ", ".join(ours))


def _mmdet_names(f):
    for key, name in f.arrays.items():
        f.holds(key, our_key(key) == name and released_key(name) == key, f"(ours {our_key(key)}, there {name})")


UNLIKELY = 1e-6  # that 300 draws miss an image

DRAWS = {"Rand": ("random", 0.0), "BInter": ("common_base", 0.0), "NInter": ("novel_list", 0.0)}


def _pair_table(f):
    names = sorted(f.arrays["images"])
    shown = [f.arrays["images"][name] for name in names]
    most = 1 + max(max(each["base"] + each["novel"], default=0) for each in shown)
    flags = np.zeros((2, len(names), most), dtype=bool)
    for place, each in enumerate(shown):
        for group, kind in enumerate(("base", "novel")):
            flags[group, place, each[kind]] = True
    table = PairTable(*flags)
    for place, name in enumerate(names):
        wanted, found = f.arrays["table"][name], table.partners(place)
        exact = {str(label): [names[k] for k in images] for label, images in found.exact.items()}
        f.holds(f"{name} exactly one", exact == {k: sorted(v) for k, v in wanted["exactly_one_common_novel"].items()})
        f.holds(f"{name} novel list", [names[k] for k in found.novel] == sorted(wanted["novel_list"]))
        f.holds(f"{name} common base", [names[k] for k in found.base] == sorted(wanted["common_base"]))
    for kind, drawn in f.arrays["drawn_in_300_draws"].items():
        rule, share = DRAWS.get(kind) or ("deconfounded", float(kind.removeprefix("Deconf")))
        for place, name in enumerate(names):
            ours = {names[image]: p for image, p in outcomes(table, place, rule, share).items()}
            theirs = set(drawn[name])
            strange = theirs - ours.keys()
            missed = [image for image in ours.keys() - theirs if (1 - ours[image]) ** 300 < UNLIKELY]
            f.holds(f"{kind} {name}", not strange and not missed, f"({len(strange)} strange, {len(missed)} missed)")


class _Decided:
    """A generator whose draws are decided beforehand, as far as that goes; then by the first choice.

    Attributes:
        made: (choice, probabilities of all choices) of each draw.
    """

    def __init__(self, decided, share):
        self.decided, self.share, self.made = decided, share, []

    def _choose(self, probabilities):
        place = len(self.made)
        choice = self.decided[place] if place < len(self.decided) else 0
        self.made.append((choice, probabilities))
        return choice

    def random(self):
        """A number below `share`, or one that is not."""
        return (0.0, 1.0)[self._choose([self.share, 1 - self.share])]

    def integers(self, count):
        return self._choose([1 / count] * int(count))


def outcomes(table, image, rule, share):
    """{reference: probability} of all draws of an image's reference."""
    found, waiting = {}, [()]
    while waiting:
        decided = waiting.pop()
        generator = _Decided(decided, share)
        reference = table.draw(image, rule, share, generator)
        probability = math.prod(probabilities[choice] for choice, probabilities in generator.made)
        if probability:
            found[reference] = found.get(reference, 0.0) + probability
        for place in range(len(decided), len(generator.made)):
            before = tuple(choice for choice, _ in generator.made[:place])
            waiting += [(*before, other) for other in range(1, len(generator.made[place][1]))]
    return found


FIXTURES = {
    "targets.npz": _targets,
    "matcher.npz": _matcher,
    "criterion.npz": _criterion,
    "simnet.npz": _simnet,
    "pairs.npz": _pairs,
    "inference.npz": _inference,
    "position.npz": _position,
    "evaluation.npz": _evaluation,
    "model_test.npz": _model_test,
    "model_train.npz": _model_train,
    "optimizer.npz": _optimizer,
    "param_groups_coco.json": _param_groups,
    "state_dict_keys_coco.json": _state_dict_keys,
    "simnet_state_dict.json": _simnet_state_dict,
    "mmdet_names.json": _mmdet_names,
    "pair_table.json": _pair_table,
}
