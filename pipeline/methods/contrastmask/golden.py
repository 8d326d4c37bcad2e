"""Compare this implementation with numbers computed with the authors' released code (`tests/golden/README.md`).

Each fixture is a file of arrays. Its inputs are read from the file or, where the file does not hold them, drawn by name
with `drawn`, as are all parameters. Nothing is assumed about values, the number of RoIs or the size of images.

The pinned rows of the tables train with one value that the released code does not have (`loss_denominator:
temperature`). That loss is compared with Eq. 1 written out in float64 on the fixtures' queries and keys; the same lines
with the released denominator have to give the released numbers.
"""

from pipeline import compat  # noqa: F401  # must precede mmcv

# isort: split

import math
import re
import zlib
from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from mmdet.core import BitmapMasks, bbox2roi
from mmdet.core.bbox.samplers.sampling_result import SamplingResult
from mmdet.models import build_head
from torch import Tensor

from pipeline import methods
from pipeline.errors import ExperimentError
from pipeline.methods.contrastmask import edges, losses, partition, sampling
from pipeline.methods.contrastmask.attention import enhance
from pipeline.methods.contrastmask.cl_head import rows_of_cells
from pipeline.methods.contrastmask.released_checkpoint import (
    BACKBONES,
    our_key,
    released_config,
    released_key,
    released_model,
    released_shape,
)
from pipeline.methods.shared import cam
from pipeline.methods.shared.draws import step_generator
from pipeline.methods.shared.golden import Check, Fixture, as_numpy, fixture_files, load_arrays, read_json
from pipeline.methods.shared.sizes import Sizes

PART = 1e-5  # of an array's largest absolute value, for one part of the model
MODEL = 1e-4  # the same through the whole model
GRADIENT = 1e-4  # the same for gradients
NORM = 1e-3, 1e-5  # norms of gradients, one for each parameter: of that norm itself, plus of the largest norm
PROBE = 1e-3, 1e-4  # inner products of gradients: of the gradient's norm, plus absolute
BOX = 1e-3  # pixels
UNDIRECTED = 1e-2  # absolute: cosine of a vector that is zero up to rounding


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
        if file.suffix == ".json":
            fixture = _param_names(file) if file.name == PARAM_NAMES else _state_dict_keys(file)
        elif file.stem in FIXTURES:
            fixture = Fixture(file.name, load_arrays(file), Path(directory))
            with torch.random.fork_rng():
                FIXTURES[file.stem](fixture)
        else:
            raise ExperimentError(f"{file}: unknown fixture; known are {', '.join(FIXTURES)}")
        if file.suffix == ".npz":
            fixture.tell_unread()
        yield from fixture.checks


def drawn(name: str, shape: tuple[int, ...]) -> Tensor:
    """Draw float32 numbers in (-1, 1) that depend on a name alone.

    Element i (C order, from 1) is SplitMix64 of counter crc32(name) * 2^32 + i, its top 53 bits scaled.
    """
    with np.errstate(over="ignore"):
        state = np.uint64(zlib.crc32(name.encode())) << np.uint64(32)
        state = state + np.arange(1, math.prod(shape) + 1, dtype=np.uint64)
        state *= np.uint64(0x9E3779B97F4A7C15)
        for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
            state = (state ^ (state >> np.uint64(shift))) * np.uint64(factor)
        state ^= state >> np.uint64(31)
    numbers = (state >> np.uint64(11)).astype(np.float64) / 2**52 - 1
    return torch.from_numpy(numbers.astype(np.float32).reshape(shape))


def drawn_parameter(key: str, shape: tuple[int, ...]) -> Tensor:
    """Draw a parameter or buffer of the released code from its state-dict key."""
    leaf = key.rsplit(".", 1)[-1]
    if leaf == "num_batches_tracked":
        return torch.zeros(shape, dtype=torch.long)
    numbers = drawn(key, shape)
    if leaf == "running_mean":
        return np.float32(0.1) * numbers
    if leaf == "running_var":
        return 1 + np.float32(0.5) * numbers
    if leaf == "bias":
        return np.float32(0.05) * numbers
    if len(shape) == 1:
        return np.float32(0.3 if key.endswith("bn3.weight") else 1) * (1 + np.float32(0.2) * numbers)
    gain = math.sqrt(6 / math.prod(shape[1:]))
    return float(np.float32(0.3 * gain if key.startswith("neck.") else gain)) * numbers


def drawn_image(height: int, width: int) -> Tensor:
    """Draw the network input [1, 3, height, width]: waves, an ellipse and noise."""
    y, x = np.mgrid[:height, :width]
    blob = np.where(((y - 120) / 60) ** 2 + ((x - 150) / 70) ** 2 < 1, 0.8, -0.4)
    channels = [1.2 * np.sin(2 * np.pi * (x / (37 + 11 * c) + y / (53 - 7 * c))) + blob for c in range(3)]
    waves = torch.from_numpy(np.stack(channels).astype(np.float32))
    return (waves + np.float32(0.3) * drawn("image", (3, height, width)))[None]


def fill(module: torch.nn.Module, place: str = "", released_place: str = ""):
    """Set every parameter and buffer of a part of the model to the number its released name stands for.

    Args:
        module: the part.
        place: prefix of our names in the whole model.
        released_place: prefix that the released names of this part are relative to.
    """
    state = {}
    for key, tensor in module.state_dict().items():
        name = released_key(place + key)
        shape = released_shape(place + key, tensor.shape)
        state[key] = drawn_parameter(name.removeprefix(released_place), shape).reshape(tensor.shape)
    module.load_state_dict(state)


# Parts


def _edges(f):
    f.equal("edges", edges.mask_edges(f["masks"]))


def _partitions(f):
    masks, is_novel = f["masks"], f["is_novel"]
    cams, has_prior = cam.min_max_normalise(f["cams"])
    cams = cams[:, 0]
    f.equal("edges", edges.mask_edges(masks))
    f.close("cams_norm", cams, PART)
    # Without any edge the released distance transform reports a made-up one; such RoIs are dropped by either code.
    with_edges = f["edges"].flatten(1).any(1).numpy()
    f.equal("edge_dilated", edges.dilate(f["edges"]), with_edges)
    comparable = with_edges | is_novel.numpy()
    for prefix, delta in _percentages(f, r"u(\d+)_keeps"):
        rule = _rule(delta)
        sets = partition.partition(masks, cams, ~is_novel, has_prior, rule)
        keep = sets.keeps(rule.min_keys)
        for name, got in zip(("query_pos", "query_neg"), sets.sides, strict=True):
            f.equal(f"{prefix}_{name}", got.view_as(masks))
        for name, got in zip(SETS, sets.candidates, strict=True):
            f.equal(f"{prefix}_{name}", got.view_as(masks), comparable)
        f.equal(f"{prefix}_keeps", keep)
        f.equal(f"{prefix}_num_candidates", sets.counts, (slice(None), comparable))
        f.equal(
            f"{prefix}_num_sampled",
            torch.stack(
                [
                    sampling.sample_sizes(sets.counts[:, keep], _sampling_rule(float(sigma)))
                    for sigma in f.expected("sigmas")
                ]
            ),
        )
        if delta == _released_knobs().delta:
            for draw, sigma in _percentages(f, r"seed\d+_sigma(\d+)_easy_pos"):
                _draws(f, draw, sigma, sets, keep)
    confident = partition.confident_cells(cams, 0.08, "strict")  # D15
    f.equal("eval_query_pos", confident[0])
    f.equal("eval_query_neg", confident[1])


def _percentages(f, pattern):
    """Values that names of arrays carry as percentages: (name without what follows the number, fraction)."""
    matches = sorted(filter(None, (re.fullmatch(pattern, name) for name in f.arrays)), key=lambda match: match[0])
    if not matches:
        raise ExperimentError(f"{f.name}: no array is named like {pattern}; there are {', '.join(f.arrays)}")
    return [(match[0][: match.end(1)], int(match[1]) / 100) for match in matches]


def _draws(f, prefix, sigma, sets, keep):
    """Compare random draws by what does not depend on the stream."""
    theirs = torch.stack([f[f"{prefix}_{name}"].flatten(1) for name in SETS])
    candidates = sets.candidates[:, keep]
    if theirs.shape != candidates.shape:
        f.holds(f"{prefix}: subsets", False, f"(shape {tuple(theirs.shape)}, ours {tuple(candidates.shape)})")
        return
    rule = _sampling_rule(sigma)
    generator = step_generator(0, 0, 0, candidates.device)
    ours = sampling.sample_keys(sets, keep, rule, generator)
    f.holds(f"{prefix}: subsets", not (theirs & ~candidates).any() and not (ours & ~sets.candidates).any())
    f.holds(f"{prefix}: counts", torch.equal(ours[:, keep].sum(-1), theirs.sum(-1)) and not ours[:, ~keep].any())
    draws = 100
    hits = sum(sampling.sample_keys(sets, keep, rule, generator)[:, keep].float() for _ in range(draws))
    share = (theirs.sum(-1) / candidates.sum(-1).clamp(min=1))[..., None].clamp(max=1)
    spread = (share * (1 - share) * draws).sqrt().clamp(min=1)
    deviation = max(((hits - share * draws).abs() / spread)[candidates].tolist(), default=0.0)
    f.holds(f"{prefix}: uniform", bool(deviation < 7), f"(largest deviation {deviation:.1f} standard deviations)")


def _sample_counts(f):
    counts = f["n"]
    sigmas = f.expected("sigmas").tolist() if "sigmas" in f.arrays else (0.1, 0.3, 0.6)
    f.equal("sampled", torch.stack([sampling.sample_sizes(counts, _sampling_rule(round(s, 6))) for s in sigmas]))


def _loss(f):
    names = ("query_pos", "query_neg", "easy_pos", "easy_neg", "hard_pos", "hard_neg")
    inputs = {name: f[name].clone().requires_grad_() for name in names}
    temperatures = f["temperatures"].tolist()
    terms, totals, gradients = [], [], {name: [] for name in names}
    for easy, hard in temperatures:
        four = _loss_terms(inputs, easy, hard)
        total = _released_knobs().loss_scale * four.sum()
        terms.append(four.detach())
        totals.append(total.detach())
        for name, gradient in zip(names, torch.autograd.grad(total, list(inputs.values())), strict=True):
            gradients[name].append(gradient)
    f.close("terms", torch.stack(terms), PART)
    f.close("total_weight1", torch.stack(totals), PART)
    for name in names:
        f.close(f"grad_{name}", torch.stack(gradients[name]), GRADIENT)
    _compare_pinned(f, inputs, temperatures)
    plain = {name: tensor.detach() for name, tensor in inputs.items()}
    first = _loss_terms(plain, *temperatures[0])
    f.close("total_weight025_first_pair", 0.25 * _released_knobs().loss_scale * first.sum(), PART)
    equal_keys = plain["easy_pos"].clone()
    equal_keys[0] = plain["query_pos"][0, 0]
    cases = {
        "one_key": {name: plain[name][:1] for name in names[2:]},
        "key_equals_query": {"query_pos": plain["query_pos"][:1].expand_as(plain["query_pos"]), "easy_pos": equal_keys},
        "empty_easy_pos": {"easy_pos": plain["easy_pos"][:0]},
        "empty_hard_neg": {"hard_neg": plain["hard_neg"][:0]},
    }
    for case, changed in cases.items():
        four = _loss_terms({**plain, **changed}, *temperatures[0])
        slack = np.array([UNDIRECTED, 0, 0, 0]) if case == "key_equals_query" else 0
        f.close(f"{case}_terms", four, PART, slack)
        f.close(f"{case}_total", _released_knobs().loss_scale * four.sum(), PART, np.max(slack))


def _compare_pinned(f, inputs, temperatures):
    """Compare the loss that the pinned rows train with, and its gradients, with Eq. 1 in float64."""
    exact = {name: tensor.detach().double().requires_grad_() for name, tensor in inputs.items()}
    queries = [exact[name].mean((0, 1)) for name in ("query_pos", "query_neg")]
    sets = [exact[name] for name in SETS]
    plain, pinned, ours = [], [], []
    gradients, expected = ({name: [] for name in inputs} for _ in range(2))
    for easy, hard in temperatures:
        plain.append(_eq1(queries, sets, easy, hard, "plain").detach())
        pinned.append(_eq1(queries, sets, easy, hard, "temperature"))
        ours.append(_loss_terms(inputs, easy, hard, "temperature"))
        for kept, terms, leaves in ((expected, pinned[-1], exact), (gradients, ours[-1], inputs)):
            found = torch.autograd.grad(terms.sum(), list(leaves.values()), retain_graph=True)
            for name, gradient in zip(leaves, found, strict=True):
                kept[name].append(gradient)
    f.close("terms", torch.stack(plain), PART, label=" (Eq. 1, released denominator)")
    against = Fixture(
        f.name,
        {"pinned terms": as_numpy(torch.stack(pinned))}
        | {f"pinned grad_{name}": as_numpy(torch.stack(values)) for name, values in expected.items()},
    )
    against.close("pinned terms", torch.stack(ours), PART)
    for name, values in gradients.items():
        against.close(f"pinned grad_{name}", torch.stack(values), GRADIENT)
    f.checks += against.checks


def _eq1(queries, sets, easy, hard, denominator):
    """The four terms of Eq. 4 as Eq. 1 stands there, on cos(q, k - q) of the released code.

    Args:
        queries: foreground and background query [C], float64.
        sets: the four sets of keys [n, C], in the order of SETS.
        easy, hard: temperatures.
        denominator: 'temperature' or 'plain', as `losses.LossForm`.
    """
    terms = []
    for query, positives, negatives, tau in ((0, 0, 1, easy), (0, 2, 3, hard), (1, 1, 0, easy), (1, 3, 2, hard)):
        own, others = (
            F.cosine_similarity(queries[query], sets[which] - queries[query], dim=-1, eps=1e-12)
            for which in (positives, negatives)
        )
        shown = own / tau if denominator == "temperature" else own
        terms.append(-((own / tau).exp() / (shown.exp() + (others / tau).exp().sum())).log().mean())
    return torch.stack(terms)


def _loss_terms(inputs, easy, hard, denominator="plain"):
    """Evaluate the four terms on flat lists of keys: they become the cells of a single RoI."""
    sets = [inputs[name] for name in SETS]
    keys = torch.cat(sets)
    member = torch.block_diag(*[torch.ones(1, len(s)) for s in sets]).bool()[:, None]
    queries = torch.stack([inputs["query_pos"].mean((0, 1)), inputs["query_neg"].mean((0, 1))])
    # Two more cells that no set holds carry the queries, so that the loss computes and differentiates them itself.
    cells = torch.cat([queries, keys])[None]
    sides = torch.eye(len(cells[0]), dtype=torch.bool)[:2, None]
    member = F.pad(member, (2, 0))
    knobs = _released_knobs()
    form = losses.LossForm(easy, hard, knobs.loss_similarity, denominator, knobs.key_pooling)
    everyone = torch.ones(1, 2, dtype=torch.bool)
    products = losses.compare_with_queries(cells, losses.query_weights(sides), everyone, False)
    return losses.contrastive_terms(losses.similarities(*products, form.similarity), member, form)


def _enhance(f):
    x = f["x"].requires_grad_()
    out = enhance(x)
    f.close("out", out, PART)
    f.close("grad_x", torch.autograd.grad((out * f["upstream"]).sum(), x)[0], GRADIENT)
    f.close("zero_out", enhance(f["zero_x"]), PART)


def _cam(f):
    from pipeline.methods.shared.cam_box_head import CAMBoxHead

    features, weight = f["roi_feats"], f["fc_cls_weight"]
    head = CAMBoxHead(
        num_shared_convs=4,
        num_cls_convs=1,
        num_reg_convs=2,
        in_channels=features.shape[1],
        conv_out_channels=weight.shape[1],
        num_classes=weight.shape[0] - 1,
        roi_feat_size=features.shape[-1],
    )
    fill(head, "roi_head.bbox_head.", "roi_head.bbox_head.")
    head.fc_cls.load_state_dict({"weight": weight, "bias": f["fc_cls_bias"]})
    scores, deltas, conv_features = head.forward_with_features(features)
    f.close("conv_feats", conv_features, PART)
    f.close("cls_score", scores, PART)
    f.close("bbox_pred", deltas, PART)
    rois, classes = len(features), len(weight)
    every = head.activation_maps(conv_features.repeat_interleave(classes, 0), torch.arange(classes).repeat(rois))
    f.close("cam_all", every.reshape(rois, classes, *every.shape[-2:]), PART)
    cam7 = head.activation_maps(conv_features, f["labels"])
    cam14 = cam.resize_map(cam7, f.expected("cam14").shape[-1])
    cam28 = cam.resize_map(cam14, f.expected("cam28").shape[-1])
    f.close("cam7", cam7, PART)
    f.close("cam14", cam14, PART)
    f.close("cam28", cam28, PART)
    f.close("cam14_norm", cam.min_max_normalise(cam14)[0], PART)
    f.close("cam28_norm", cam.min_max_normalise(cam28)[0][:, 0], PART)


# Contrastive head


def _cl_head(channels, size, **knobs):
    sizes = Sizes(neck_channels=channels, contrast_channels=channels, contrast_roi_size=size, mask_roi_size=size)
    head = build_head(released_config(BACKBONES["r50"], sizes, **knobs)["roi_head"]["cl_head"])
    fill(head, "roi_head.cl_head.", "roi_head.mask_head.contrastive_head.")
    return head


def _clhead_eval(f):
    shape = f.expected("encoded").shape
    head = _cl_head(shape[1], shape[2]).eval()
    with torch.no_grad():
        encoded, _ = head(drawn("clhead/x", shape))
        f.close("encoded", encoded, PART)
        f.close("enhanced", enhance(encoded), PART)
        f.close("projected", head.projector(encoded).permute(0, 2, 3, 1).flatten(0, 2), PART)


def _clhead_train(f):
    masks, is_novel = f["masks"], f["is_novel"]
    channels, size = f.expected("query_pos").shape[-1], masks.shape[-1]
    head = _cl_head(channels, size, sigma=1.0).train()
    x = drawn("cltrain/x", (len(masks), channels, size, size)).requires_grad_()
    cams, has_prior = cam.min_max_normalise(f["cams"])
    encoded, _ = head(x)
    projected = head.projector(encoded)
    cells = rows_of_cells(projected)
    sets = partition.partition(masks, cams[:, 0], ~is_novel, has_prior, head.rule)
    keep = sets.keeps(head.rule.min_keys)
    keys = sets.candidates & keep[:, None]
    queries, _, _ = losses.compare_with_queries(cells, losses.query_weights(sets.sides), None, False)
    f.equal("edges", edges.mask_edges(masks))
    f.equal("keeps", keep)
    f.equal("num_keys", keys.sum(-1)[:, keep])
    f.close("query_pos", queries[keep, :1], PART)
    f.close("query_neg", queries[keep, 1:], PART)
    for name, members in zip(SETS, keys, strict=True):
        f.close(f"mean_{name}", cells[members].mean(0), PART)
    f.close("encoded_sub", encoded[:, ::16], PART)
    f.close("enhanced_sub", enhance(encoded)[:, ::16], PART)
    f.close("projected_sub", projected.permute(0, 2, 3, 1)[:, ::4, ::4], PART)
    f.close(
        "bn_running",
        torch.stack(
            [statistic for layer in head.projector[:2] for statistic in (layer.bn.running_mean, layer.bn.running_var)]
        ),
        PART,
    )
    terms = head.terms(cells, sets.sides, keys, keep)
    f.close("loss_terms", terms, PART)
    # The same path with the loss of the pinned rows, against Eq. 1 on the queries of the file.
    everywhere = [f[name].double().mean((0, 1)) for name in ("query_pos", "query_neg")]
    drawn_keys = [cells.detach()[members].double() for members in keys]
    exact = _eq1(everywhere, drawn_keys, head.form.tau_easy, head.form.tau_hard, "temperature")
    against = Fixture(f.name, {"pinned loss_terms": as_numpy(exact)})
    released, head.form = head.form, replace(head.form, denominator="temperature")
    against.close("pinned loss_terms", head.terms(cells, sets.sides, keys, keep), PART)
    head.form = released
    f.checks += against.checks
    # The whole path once more, through the function that training calls; every candidate is a key.
    loss, _ = head.loss(encoded, masks, cams[:, 0], has_prior, is_novel, 1.0, step_generator(0, 0, 0, x.device))
    f.close("loss_total", loss, PART)
    parameters = _named_parameters(head, "roi_head.cl_head.", "roi_head.mask_head.contrastive_head.", skip="fusion")
    gradients = torch.autograd.grad(loss, [x, *(parameter for _, parameter in parameters.values())])
    _compare_gradients(f, "grad", parameters, gradients[1:])
    _compare_norms(f, "grad_x_l2_per_roi", gradients[0].double().flatten(1).norm(dim=1))


def _maskhead_eval(f):
    rois = len(f.expected("mask_logits"))
    head = released_model("r50").eval()
    for part, place in ((head.roi_head.mask_head, "roi_head.mask_head."), (head.roi_head.cl_head, "roi_head.cl_head.")):
        fill(part, place, "roi_head.mask_head.")
    channels = head.roi_head.mask_head.in_channels
    features = drawn("maskhead/x", (rois, channels, 14, 14))
    cam14 = cam.resize_map(f["cam7"], 14)
    seen = _watch_mask_head(head.roi_head.mask_head)
    with torch.no_grad():
        _, joined = head.roi_head.cl_head(drawn("maskhead/cl", (rois, channels, 28, 28)))
        prior, _ = cam.min_max_normalise(cam14)
        logits = head.roi_head.mask_head(features, prior, joined)
    f.close("cam14", cam14, PART)
    f.close("fuse_out_sub", joined[:, ::16], PART)
    f.close("convs_in_sub", seen["convs_in"][:, ::16], PART)
    f.close("convs_out_sub", seen["convs_out"][:, ::16], PART)
    f.close("mask_logits", logits, PART)


def _watch_mask_head(mask_head):
    seen = {}
    mask_head.convs[0].register_forward_pre_hook(lambda _, args: seen.update(convs_in=args[0]))
    mask_head.convs[-1].register_forward_hook(lambda _, args, out: seen.update(convs_out=out))
    return seen


# Whole model


def _model_r50(f):
    model = _filled_model()
    height, width = f.expected("pasted").shape[-2:]
    image = drawn_image(height, width)
    rois, labels = f["rois"], f["labels"]
    head = model.roi_head
    _same_image(f, image)
    with torch.no_grad():
        stages = model.backbone(image)
        pyramid = model.neck(stages)
        scores, deltas = model.rpn_head(pyramid)
        for name, maps in (("backbone", stages), ("fpn", pyramid), ("rpn_cls", scores), ("rpn_reg", deltas)):
            f.close(f"{name}_mean", torch.stack([m.mean() for m in maps]), MODEL)
            f.close(f"{name}_std", torch.stack([m.std() for m in maps]), MODEL)
        for level, (maps, stride) in enumerate(zip(pyramid, (8, 4, 2, 1, 1), strict=True)):
            f.close(f"fpn{level}_sub", maps[0, ::32, ::stride, ::stride], MODEL)
        box = head._bbox_forward(pyramid, rois)
        maps = head.bbox_head.activation_maps(box["cam_features"], labels)
        logits = head.detection_masks(pyramid, rois, labels, maps)
        f.close("cls_score", box["cls_score"], MODEL)
        f.close("bbox_pred_sub", box["bbox_pred"][:, ::4], MODEL)
        f.close("cam", maps, MODEL)
        f.close("cam14_norm", cam.min_max_normalise(cam.resize_map(maps, head.mask_roi_size))[0], MODEL)
        f.close("mask_logits", logits, MODEL)
        by_class = head.mask_head.get_seg_masks(
            logits, rois[:, 1:], labels, head.test_cfg, (height, width), np.ones(4, np.float32), True
        )
    taken = {label: iter(masks) for label, masks in enumerate(by_class)}
    f.equal("pasted", np.stack([next(taken[label]) for label in labels.tolist()]))


def _same_image(f, image):
    """Refuse a fixture of another network input than the one drawn for its size: nothing else could agree."""
    ours = image[0, :, ::16, ::16].numpy()
    if ours.shape != f.expected("image_sub").shape or not np.allclose(ours, f.expected("image_sub"), atol=1e-4):
        raise ExperimentError(
            f"{f.name}: `image_sub` is not of the image that `drawn_image` draws for the size of "
            "`pasted`; make the fixture of that image"
        )


def _image_size(f):
    """Height and width of the image of a fixture that need not tell: `model_r50.npz` beside it has the same."""
    if "image_shape" in f.arrays:
        return tuple(f.expected("image_shape")[:2].tolist())
    beside = f.directory / "model_r50.npz"
    if beside.exists() and "pasted" in (arrays := load_arrays(beside)):
        return arrays["pasted"].shape[-2:]
    return IMAGE_SIZE


def _model_r50_test(f):
    model = _filled_model()
    size = _image_size(f)
    image = drawn_image(*size)
    meta = {"img_shape": (*size, 3), "scale_factor": np.ones(4, np.float32)}
    head = model.roi_head
    head.test_cfg.max_per_img = len(f.expected("det_bboxes"))
    with torch.no_grad():
        pyramid = model.extract_feat(image)
        ((boxes, labels, maps),) = head.detect(pyramid, [f["proposals"]], [meta], rescale=False)
        f.close("det_bboxes", boxes, 0, BOX, np.s_[:, :4], " (pixels)")
        f.close("det_bboxes", boxes, MODEL, 0, np.s_[:, 4:], " (scores)")
        f.equal("det_labels", labels)
        f.close("det_cams", maps, MODEL)
        if boxes.shape == f.expected("det_bboxes").shape:
            f.close("mask_logits", head.detection_masks(pyramid, bbox2roi([boxes]), labels, maps), MODEL)


def _mask_branch_train(f):
    masks = f["gt_masks"]
    model = _filled_model(sigma=1.0).train()
    head = model.roi_head
    sampled = _sampled(f)
    gt_masks = [BitmapMasks(masks.numpy().astype(np.uint8), *masks.shape[-2:])]
    is_novel = f["gt_is_novel"][f["pos_assigned_gt_inds"]]
    f.equal("is_novel", is_novel)
    pyramid = [level.detach().requires_grad_() for level in model.extract_feat(drawn_image(*masks.shape[-2:]))]
    # epoch 1 of the released schedule has weight 0.25
    head.set_progress(0, 1.0, 0, 0)
    rows = head._bbox_forward(pyramid, bbox2roi([sampled.bboxes]))["cam_features"][: len(is_novel)]
    result = head._mask_losses(pyramid, [sampled], rows, gt_masks, [f["gt_is_novel"]], {})
    targets = head._mask_targets([sampled], gt_masks, head.train_cfg.mask_size)
    maps = head.bbox_head.activation_maps(rows, sampled.pos_gt_labels)
    with torch.no_grad():  # the step above leaves out the masks that no loss reads
        logits = head._mask_features(pyramid, bbox2roi([sampled.pos_bboxes]), maps)["mask_pred"]
    maps = cam.resize_map(cam.resize_map(maps, head.mask_roi_size), head.cl_roi_size)
    cams, has_prior = cam.min_max_normalise(maps)
    sets = partition.partition(targets, cams[:, 0], ~is_novel, has_prior, head.cl_head.rule)
    f.equal("mask_targets", targets)
    f.equal("edges", edges.mask_edges(targets))
    f.close("cams28", maps, MODEL)
    f.equal("keeps", sets.keeps(head.cl_head.rule.min_keys))
    # Without any edge the released code makes one up, see `_partitions`; it drops those RoIs too.
    comparable = (f["edges"].flatten(1).any(1) | is_novel).numpy()
    f.equal("num_keys", sets.counts, (slice(None), comparable))
    f.equal("num_all", torch.tensor(len(is_novel)))
    f.equal("num_base", head.statistics["mask_loss_rois"])
    f.close("mask_logits", logits, MODEL)
    parameters = _named_parameters(head, "roi_head.", "")
    for short, name in (("mask", "loss_mask"), ("contrastive", "loss_contrastive")):
        f.close(name, result[name], MODEL)
        inputs = [*pyramid, *(parameter for _, parameter in parameters.values())]
        gradients = torch.autograd.grad(result[name], inputs, retain_graph=True, allow_unused=True)
        reached, own = gradients[len(pyramid) :], gradients[: len(pyramid)]
        f.equal(f"{short}_has_grad", np.array([g is not None for g in reached]))
        _compare_gradients(f, f"{short}_grad", parameters, reached)
        _compare_norms(f, f"{short}_fpn_grad_l2", [0.0 if g is None else float(g.double().norm()) for g in own])


def _sampled(f):
    """Make the sampling result of an image from its hand-made RoIs."""
    result = SamplingResult.__new__(SamplingResult)
    result.pos_bboxes, result.neg_bboxes = f["pos_bboxes"], f["neg_bboxes"]
    result.pos_assigned_gt_inds, result.pos_is_gt = f["pos_assigned_gt_inds"], f["pos_is_gt"]
    result.pos_gt_labels = f["gt_labels"][result.pos_assigned_gt_inds]
    return result


def _state_dict_keys(file):
    backbone = file.stem.removeprefix("state_dict_keys_")
    fixture = Fixture(file.name, {})
    if backbone not in BACKBONES:
        raise ExperimentError(f"{file}: unknown backbone {backbone!r}; known are {', '.join(BACKBONES)}")
    with torch.device("meta"):
        state = released_model(backbone).state_dict()
    ours = {released_key(key): list(released_shape(key, tensor.shape)) for key, tensor in state.items()}
    wanted = read_json(file, dict)
    differing = sorted(key for key in ours.keys() | wanted.keys() if ours.get(key) != wanted.get(key))
    fixture.holds("names and shapes", not differing, ", ".join(differing))
    strays = [key for key in wanted if our_key(key) not in state]
    fixture.holds("names back", not strays, ", ".join(strays))
    return fixture


def _param_names(file):
    """The order in which `mask_branch_train.npz` lists gradients."""
    fixture = Fixture(file.name, {})
    with torch.device("meta"):
        ours = list(_named_parameters(released_model("r50").roi_head, "roi_head.", ""))
    fixture.holds("names and order", ours == read_json(file, list))
    return fixture


# Shared


SETS = ("easy_pos", "easy_neg", "hard_pos", "hard_neg")
IMAGE_SIZE = 256, 320  # of the committed fixtures
PARAM_NAMES = "mask_branch_train_param_names.json"


@cache
def _released_knobs():
    return methods.method("contrastmask").preset("released")


def _rule(delta):
    knobs = _released_knobs()
    return partition.PartitionRule(
        delta, knobs.cl_key_scale, knobs.cam_threshold, knobs.tiny_mask_fallback, knobs.hard_easy_rule, knobs.min_keys
    )


def _sampling_rule(sigma):
    knobs = _released_knobs()
    return sampling.SamplingRule(sigma, knobs.sample_rounding, knobs.sampling_order)


def _filled_model(**knobs):
    model = released_model("r50", **knobs).eval()
    fill(model)
    return model


def _named_parameters(module, place, released_place, skip="\0"):
    """Return released name -> (our name, parameter), in the order of the released names."""
    named = {
        released_key(place + key).removeprefix(released_place): (place + key, parameter)
        for key, parameter in module.named_parameters()
        if not key.startswith(skip)
    }
    return dict(sorted(named.items()))


def _compare_gradients(f, prefix, parameters, gradients):
    """Compare norms of gradients and their inner products with drawn probes; no gradient counts as zero."""
    norms, products = [], []
    for (name, (key, parameter)), gradient in zip(parameters.items(), gradients, strict=True):
        shape = released_shape(key, parameter.shape)
        gradient = torch.zeros(shape) if gradient is None else gradient.reshape(shape).double()
        norms.append(gradient.norm())
        products.append((gradient * drawn(f"probe/{name}", shape)).sum())
    _compare_norms(f, f"{prefix}_l2", norms)
    f.close(f"{prefix}_dot", products, 0, PROBE[0] * f.expected(f"{prefix}_l2").astype(np.float64) + PROBE[1])


def _compare_norms(f, array, norms):
    """Compare norms of gradients, each within a share of itself: they differ by orders of magnitude."""
    expected = f.expected(array).astype(np.float64)
    f.close(array, norms, 0, NORM[0] * expected + NORM[1] * expected.max(initial=0))


FIXTURES = {
    "edges": _edges,
    "partitions": _partitions,
    "sample_counts": _sample_counts,
    "loss": _loss,
    "enhance": _enhance,
    "cam": _cam,
    "clhead_eval": _clhead_eval,
    "clhead_train": _clhead_train,
    "maskhead_eval": _maskhead_eval,
    "model_r50": _model_r50,
    "model_r50_test": _model_r50_test,
    "mask_branch_train": _mask_branch_train,
}
