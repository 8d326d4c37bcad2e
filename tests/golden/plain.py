"""Make fixtures of the layout of this directory with other values: another seed, number of RoIs and image size.

Everything is computed a second time, as plainly as possible and in float64: numpy loops, functional layers on the state
dict of the whole model. Of the package only the layout's own definitions are used (`drawn`, `drawn_parameter`,
`drawn_image`, names of parameters) and, for the whole model, backbone, neck and RPN, which are MMDetection's.
"""

import numpy as np
import torch
import torch.nn.functional as F

from pipeline.methods.contrastmask.golden import drawn, drawn_image, drawn_parameter, fill
from pipeline.methods.contrastmask.released_checkpoint import released_key, released_model, released_shape

from mmcv.ops import nms, roi_align  # isort: skip  needs pipeline.compat

SETS = ("easy_pos", "easy_neg", "hard_pos", "hard_neg")


def write(folder, name, seed, rois, size):
    """Write one fixture, or those of the whole model.

    Args:
        folder: where to.
        name: key of MAKERS, or 'model'.
        seed: of all inputs that the files hold.
        rois: number of RoIs, or what it is derived from.
        size: height and width of the image of 'model'.
    """
    rng = np.random.default_rng(seed)
    made = whole_model(rng, rois, size) if name == "model" else {name: MAKERS[name](rng, rois)}
    for file, arrays in made.items():
        arrays = {key: np.asarray(value) for key, value in arrays.items()}
        single = {key: value.astype(np.float32) for key, value in arrays.items() if value.dtype == np.float64}
        np.savez(folder / f"{file}.npz", **arrays | single)


# Masks and sets


def blobs(rng, count, size=28):
    """Ellipses of random place and extent; the first covers everything."""
    rows, columns = np.mgrid[:size, :size]
    masks = [np.ones((size, size), bool)]
    for _ in range(count - 1):
        (y, x), (height, width) = rng.uniform(8, 20, 2), rng.uniform(4, 9, 2)
        masks.append(((rows - y) / height) ** 2 + ((columns - x) / width) ** 2 < 1)
    return np.stack(masks)


def edge_map(mask):
    return np.logical_or(*(np.abs(np.nan_to_num(g)) > 0 for g in np.gradient(mask.astype(float))))


def smooth_maps(rng, count):
    coarse = torch.from_numpy(rng.normal(size=(count, 1, 7, 7)))
    return F.interpolate(coarse, size=(28, 28), mode="bilinear", align_corners=False).numpy().astype(np.float32)


def normalised(maps):
    low, high = maps.min((-2, -1), keepdims=True), maps.max((-2, -1), keepdims=True)
    return (maps - low) / (high - low)


def key_sets(mask, cam, novel, delta):
    """(queries [2], keys [4]) of one RoI, bool maps; spec sections 5 and 6."""
    strict = cam > np.float32(1 - delta), cam < np.float32(delta)
    if novel:
        return strict, (*strict, *strict)
    edge = edge_map(mask)
    cells = np.argwhere(edge)
    grid = np.stack(np.mgrid[:28, :28], axis=-1)
    near = np.zeros_like(edge)
    if len(cells):
        near = ((grid[:, :, None] - cells) ** 2).sum(-1).min(-1) < 4
    ring = near & ~edge
    queries = [mask, ~mask]
    if mask.sum() < 2:
        queries[0] = cam > np.float32(0.95)
    if (~mask).sum() < 2:
        queries[1] = cam < np.float32(0.05)
    return queries, (mask & ~ring, ~mask & ~near, mask & ring, ~mask & ring)


def sample_size(count, sigma):
    return np.ceil(np.float32(count) * np.float32(sigma)).astype(np.int32)


def edges(rng, rois):
    masks = blobs(rng, rois)
    return {"masks": masks, "edges": np.stack([edge_map(mask) for mask in masks])}


def partitions(rng, rois):
    rois = 3 * rois
    masks, cams = blobs(rng, rois), smooth_maps(rng, rois)
    is_novel = np.arange(rois) % 2 == 1
    cams_norm = normalised(cams)[:, 0]
    out = {
        "masks": masks,
        "cams": cams,
        "is_novel": is_novel,
        "cams_norm": cams_norm,
        "sigmas": np.array([0.1, 0.3, 0.6], np.float32),
        "edges": np.stack([edge_map(mask) for mask in masks]),
        "eval_query_pos": cams_norm > np.float32(0.92),
        "eval_query_neg": cams_norm < np.float32(0.08),
    }
    grid = np.stack(np.mgrid[:28, :28], axis=-1)
    out["edge_dilated"] = np.stack(
        [((grid[:, :, None] - np.argwhere(edge)) ** 2).sum(-1).min(-1, initial=99) < 4 for edge in out["edges"]]
    )
    for prefix, delta in (("u10", 0.1), ("u20", 0.2)):
        both = [key_sets(*row, delta) for row in zip(masks, cams_norm, is_novel, strict=True)]
        queries, keys = (np.stack([np.stack(row[part]) for row in both], axis=1) for part in (0, 1))
        out |= {f"{prefix}_{name}": values for name, values in zip(("query_pos", "query_neg"), queries, strict=True)}
        out |= {f"{prefix}_{name}": values for name, values in zip(SETS, keys, strict=True)}
        counts = keys.sum((-2, -1)).astype(np.int32)
        keeps = (counts >= 5).all(0)
        out |= {f"{prefix}_num_candidates": counts, f"{prefix}_keeps": keeps}
        out[f"{prefix}_num_sampled"] = np.stack([sample_size(counts[:, keeps], sigma) for sigma in out["sigmas"]])
        if prefix == "u10":
            for name, candidates in zip(SETS, keys[:, keeps], strict=True):
                draw = np.zeros_like(candidates)
                for one, cells in zip(draw, candidates, strict=True):
                    where = np.flatnonzero(cells)
                    one.flat[rng.choice(where, sample_size(len(where), 0.5), replace=False)] = True
                out[f"seed7_sigma50_{name}"] = draw
    return out


def sample_counts(rng, _):
    n = rng.integers(5, 784, 200).astype(np.int32)
    return {"n": n, "sampled": np.stack([sample_size(n, sigma) for sigma in (0.1, 0.3, 0.6)])}


# Loss


def four_terms(query_pos, query_neg, sets, easy, hard):
    """Spec section 8, on mean queries."""
    queries = [query_pos.mean((0, 1)), query_neg.mean((0, 1))]
    terms = []
    for query, positive, negative, tau in ((0, 0, 1, easy), (0, 2, 3, hard), (1, 1, 0, easy), (1, 3, 2, hard)):
        q = queries[query]

        def cosine(keys, q=q):
            k = keys - q
            return k @ q / (k.norm(dim=1) * q.norm()).clamp(min=1e-9)

        own, other = cosine(sets[positive]), cosine(sets[negative])
        each = torch.log(own.exp() + (other / tau).exp().sum()) - own / tau
        terms.append(each.mean() if len(each) else each.sum())
    return torch.stack(terms)


def loss(rng, rois, channels=24):
    shapes = {
        "query_pos": (rois, 1, channels),
        "query_neg": (rois, 1, channels),
        "easy_pos": (31, channels),
        "easy_neg": (47, channels),
        "hard_pos": (19, channels),
        "hard_neg": (23, channels),
    }
    data = {name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}
    leaf = {name: torch.from_numpy(values).double().requires_grad_() for name, values in data.items()}
    pairs = np.array([[0.4, 0.6], [0.3, 0.7], [0.9, 0.2]], np.float32)
    out = data | {"temperatures": pairs}

    def terms(pair, **changed):
        now = leaf | changed
        return four_terms(now["query_pos"], now["query_neg"], [now[name] for name in SETS], *map(float, pair))

    found = [terms(pair) for pair in pairs]
    out["terms"] = torch.stack(found).detach().numpy()
    out["total_weight1"] = 0.1 * out["terms"].sum(1)
    out["total_weight025_first_pair"] = 0.25 * out["total_weight1"][0]
    for name, tensor in leaf.items():
        out[f"grad_{name}"] = np.stack(
            [0.1 * torch.autograd.grad(four.sum(), tensor, retain_graph=True)[0].numpy() for four in found]
        )
    equal = leaf["easy_pos"].detach().clone()
    equal[0] = leaf["query_pos"][0, 0].detach()
    cases = {
        "one_key": {name: leaf[name][:1] for name in SETS},
        "key_equals_query": {"query_pos": leaf["query_pos"][:1].expand(rois, -1, -1), "easy_pos": equal},
        "empty_easy_pos": {"easy_pos": leaf["easy_pos"][:0]},
        "empty_hard_neg": {"hard_neg": leaf["hard_neg"][:0]},
    }
    for case, changed in cases.items():
        four = terms(pairs[0], **changed).detach().numpy()
        out |= {f"{case}_terms": four, f"{case}_total": 0.1 * four.sum()}
    return out


# Layers


def attention(features):
    cells = features.flatten(2).transpose(1, 2)
    norms = cells.norm(dim=-1, keepdim=True)
    directions = torch.where(norms > 0, cells / norms.clamp(min=1e-30), 0)
    return ((directions @ directions.transpose(1, 2)).softmax(-1) @ cells).transpose(1, 2).view_as(features)


def enhance_(rng, rois):
    x, upstream = (torch.from_numpy(rng.normal(size=(rois, 16, 9, 9)).astype(np.float32)).double() for _ in range(2))
    x.requires_grad_()
    out = attention(x)
    zero = torch.from_numpy(rng.normal(size=(1, 8, 4, 4)).astype(np.float32)).double()
    zero[0, :, 1, 2] = 0
    return {
        "x": x.detach().numpy(),
        "out": out.detach().numpy(),
        "upstream": upstream.numpy(),
        "zero_x": zero.numpy(),
        "grad_x": torch.autograd.grad((out * upstream).sum(), x)[0].numpy(),
        "zero_out": attention(zero).numpy(),
    }


def resized(maps, size):
    return F.interpolate(maps, size=(size, size), mode="bilinear", align_corners=False)


class Layers:
    """Functional layers on parameters by released name.

    Attributes:
        closest: how close an input of a ReLU has come to zero, in standard deviations of the inputs.
    """

    def __init__(self, shapes, place=""):
        self.values = {key: drawn_parameter(key, shape).double() for key, shape in shapes.items()}
        self.place = place
        self.closest = np.inf

    def __getitem__(self, key):
        return self.values[self.place + key]

    def relu(self, x):
        self.closest = min(self.closest, (x.detach().abs().min() / x.detach().std()).item())
        return F.relu(x)

    def conv(self, x, key, padding=1):
        return self.relu(F.conv2d(x, self[f"{key}.weight"], self[f"{key}.bias"], padding=padding))

    def box(self, x):
        """(class scores, box deltas, features of the classification branch)."""
        for layer in range(4):
            x = self.conv(x, f"shared_convs.{layer}.conv")
        features = self.conv(x, "cls_convs.0.conv")
        for layer in range(2):
            x = self.conv(x, f"reg_convs.{layer}.conv")
        return (
            F.linear(features.mean((2, 3)), self["fc_cls.weight"], self["fc_cls.bias"]),
            F.linear(x.mean((2, 3)), self["fc_reg.weight"], self["fc_reg.bias"]),
            features,
        )

    def cams(self, features, labels):
        return torch.einsum("rchw,rc->rhw", features, self["fc_cls.weight"].detach()[labels])[:, None]

    def encoder(self, x):
        for layer in range(8):
            x = self.conv(x, f"encoder.{layer}.conv")
        return x

    def projector(self, x, training):
        """Rows of cells; statistics are updated in training."""
        rows = x.permute(0, 2, 3, 1).flatten(0, 2)
        for layer in range(2):
            rows = rows @ self[f"projector.{layer}.conv.weight"].flatten(1).T
            mean, var = (self[f"projector.{layer}.bn.running_{name}"] for name in ("mean", "var"))
            rows = self.relu(
                F.batch_norm(
                    rows, mean, var, self[f"projector.{layer}.bn.weight"], self[f"projector.{layer}.bn.bias"], training
                )
            )
        return F.linear(rows, self["projector.2.weight"], self["projector.2.bias"])

    def mask(self, x, cam14, encoded):
        """(fused feature, input and output of the convolutions, logits)."""
        fused = F.conv2d(resized(attention(encoded), 14), self["fuseconv.weight"], self["fuseconv.bias"])
        low, high = cam14.amin((2, 3), keepdim=True), cam14.amax((2, 3), keepdim=True)
        joined = x + fused + (cam14 - low) / (high - low)
        y = joined
        for layer in range(4):
            y = self.conv(y, f"convs.{layer}.conv")
        up = self.relu(F.conv_transpose2d(y, self["upsample.weight"], self["upsample.bias"], stride=2))
        return fused, joined, y, F.conv2d(up, self["conv_logits.weight"], self["conv_logits.bias"])


def shapes_of(backbone="r50"):
    with torch.device("meta"):
        state = released_model(backbone).state_dict()
    return {released_key(key): released_shape(key, tensor.shape) for key, tensor in state.items()}


def part(prefix, replace=lambda shape: shape):
    return {key.removeprefix(prefix): replace(shape) for key, shape in shapes_of().items() if key.startswith(prefix)}


def thinner(channels):
    return lambda shape: tuple(channels if length == 256 else length for length in shape)


def cam(rng, rois):
    classes, width = 5, {81: 6, 320: 20, 256: 32}
    shapes = part("roi_head.bbox_head.", lambda shape: tuple(width.get(length, length) for length in shape))
    shapes["shared_convs.0.conv.weight"] = (32, 12, 3, 3)
    layers = Layers(shapes)
    # The classifier is in the file, so it may have values of its own.
    layers.values["fc_cls.weight"] = torch.from_numpy(rng.normal(size=(classes + 1, 32)).astype(np.float32)).double()
    x = torch.from_numpy(rng.normal(size=(rois, 12, 7, 7)).astype(np.float32)).double()
    scores, deltas, features = layers.box(x)
    labels = torch.from_numpy(rng.integers(0, classes, rois))
    cam7 = layers.cams(features, labels)
    cam14 = resized(cam7, 14)
    cam28 = resized(cam14, 28)
    return {
        "roi_feats": x.numpy(),
        "conv_feats": features.numpy(),
        "fc_cls_weight": layers["fc_cls.weight"].numpy(),
        "fc_cls_bias": layers["fc_cls.bias"].numpy(),
        "cls_score": scores.numpy(),
        "bbox_pred": deltas.numpy(),
        "cam_all": torch.einsum("rchw,kc->rkhw", features, layers["fc_cls.weight"]).numpy(),
        "labels": labels.numpy(),
        "cam7": cam7.numpy(),
        "cam14": cam14.numpy(),
        "cam28": cam28.numpy(),
        "cam14_norm": normalised(cam14.numpy()),
        "cam28_norm": normalised(cam28.numpy())[:, 0],
    }


def clhead_eval(_, rois):
    layers = Layers(part("roi_head.mask_head.contrastive_head.", thinner(32)))
    encoded = layers.encoder(drawn("clhead/x", (rois, 32, 28, 28)).double())
    return {
        "encoded": encoded.numpy(),
        "enhanced": attention(encoded).numpy(),
        "projected": layers.projector(encoded, False).numpy(),
    }


def contrast(cells, masks, cams, is_novel, easy=0.3, hard=0.7):
    """Sets and terms of RoIs whose every candidate is a key; `cells` [R, P, C] are projected."""
    both = [key_sets(*row, 0.1) for row in zip(masks, cams, is_novel, strict=True)]
    counts = np.array([[keys.sum() for keys in row[1]] for row in both]).T
    keeps = (counts >= 5).all(0)
    queries = [
        torch.stack([cells[r][row[0][side].ravel()].mean(0) for r, row in enumerate(both) if keeps[r]])
        for side in (0, 1)
    ]
    sets = [
        torch.cat([cells[r][row[1][which].ravel()] for r, row in enumerate(both) if keeps[r]]) for which in range(4)
    ]
    terms = four_terms(queries[0][:, None], queries[1][:, None], sets, easy, hard)
    return {"counts": counts.astype(np.int32), "keeps": keeps, "queries": queries, "sets": sets, "terms": terms}


def gradients(prefix, total, named, probe):
    """Norms and inner products by released name, sorted; no gradient is zero."""
    found = torch.autograd.grad(total, [tensor for _, tensor in named], retain_graph=True, allow_unused=True)
    found = [torch.zeros_like(tensor) if g is None else g for (_, tensor), g in zip(named, found, strict=True)]
    return {
        f"{prefix}_l2": np.array([g.norm().item() for g in found]),
        f"{prefix}_dot": np.array(
            [
                (g * drawn(f"probe/{probe}{key}", tuple(g.shape)).double()).sum().item()
                for (key, _), g in zip(named, found, strict=True)
            ]
        ),
    }


def trainable(layers, prefix=""):
    named = sorted(
        (key, value)
        for key, value in layers.values.items()
        if key.startswith(prefix) and not key.rsplit(".", 1)[-1].startswith(("running", "num_"))
    )
    for _, value in named:
        value.requires_grad_()
    return named


def clhead_train(rng, _):
    """RoIs and channels as many as leave every ReLU on its side of zero, whatever the processor.

    Of the millions of ReLUs of 256 channels some are always so close to zero that float32 switches them on here and off
    there, and one of them turns the gradient of a small set of cells by a hundredth.
    """
    rois, channels = 4, 48
    layers = Layers(part("roi_head.mask_head.contrastive_head.", thinner(channels)))
    masks, cams = blobs(rng, rois), smooth_maps(rng, rois)
    is_novel = np.arange(rois) % 3 == 1
    x = drawn("cltrain/x", (rois, channels, 28, 28)).double().requires_grad_()
    named = trainable(layers)
    encoded = layers.encoder(x)
    projected = layers.projector(encoded, True).view(rois, 784, channels)
    assert layers.closest > 5e-6, "float32 rounds by a tenth of it"
    found = contrast(projected, masks, normalised(cams)[:, 0], is_novel)
    total = 0.1 * found["terms"].sum()
    (grad_x,) = torch.autograd.grad(total, x, retain_graph=True)
    out = {
        "masks": masks,
        "edges": np.stack([edge_map(mask) for mask in masks]),
        "cams": cams,
        "is_novel": is_novel,
        "keeps": found["keeps"],
        "num_keys": found["counts"][:, found["keeps"]],
        "loss_total": total.detach().numpy(),
        "query_pos": found["queries"][0].detach().numpy()[:, None],
        "query_neg": found["queries"][1].detach().numpy()[:, None],
        "loss_terms": found["terms"].detach().numpy(),
        "encoded_sub": encoded.detach().numpy()[:, ::16],
        "enhanced_sub": attention(encoded.detach()).numpy()[:, ::16],
        "projected_sub": projected.detach().numpy().reshape(rois, 28, 28, channels)[:, ::4, ::4],
        "bn_running": np.stack(
            [layers[f"projector.{n}.bn.running_{s}"].numpy() for n in (0, 1) for s in ("mean", "var")]
        ),
        "grad_x_l2_per_roi": grad_x.flatten(1).norm(dim=1).numpy(),
        **gradients("grad", total, named, ""),
    }
    return out | {f"mean_{name}": keys.detach().mean(0).numpy() for name, keys in zip(SETS, found["sets"], strict=True)}


def maskhead_eval(rng, rois):
    layers = Layers(part("roi_head.mask_head."))
    encoder = Layers(part("roi_head.mask_head."), "contrastive_head.")
    cam7 = rng.normal(size=(rois, 1, 7, 7)).astype(np.float32)
    cam14 = resized(torch.from_numpy(cam7).double(), 14)
    encoded = encoder.encoder(drawn("maskhead/cl", (rois, 256, 28, 28)).double())
    fused, joined, y, logits = layers.mask(drawn("maskhead/x", (rois, 256, 14, 14)).double(), cam14, encoded)
    return {
        "cam7": cam7,
        "cam14": cam14.numpy(),
        "fuse_out_sub": fused.numpy()[:, ::16],
        "convs_in_sub": joined.numpy()[:, ::16],
        "convs_out_sub": y.numpy()[:, ::16],
        "mask_logits": logits.numpy(),
    }


# Whole model


def pooled(pyramid, boxes, size):
    """RoI features from the level of each box; spec section 2."""
    side = ((boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])).sqrt()
    levels = torch.floor(torch.log2(side / 56 + 1e-6)).clamp(0, 3).long()
    rois = torch.cat([boxes.new_zeros(len(boxes), 1), boxes], dim=1)
    rows = [
        roi_align(pyramid[level], rois[i : i + 1].float(), (size, size), 0.25 / 2**level, 0, "avg", True)
        for i, level in enumerate(levels.tolist())
    ]
    return torch.cat(rows).double()


def mask_targets(masks, boxes, owners):
    rois = torch.cat([torch.tensor(owners)[:, None], boxes], dim=1).float()
    share = roi_align(torch.from_numpy(masks[:, None]).float(), rois, (28, 28), 1.0, 0, "avg", True)[:, 0]
    return (share >= 0.5).numpy()


def boxes_in(rng, count, size):
    height, width = size
    x1, y1 = rng.uniform(0, width - 90, count), rng.uniform(0, height - 90, count)
    return torch.from_numpy(
        np.stack([x1, y1, x1 + rng.uniform(30, 85, count), y1 + rng.uniform(30, 85, count)], axis=1).astype(np.float32)
    )


def decode(boxes, deltas, size):
    dx, dy, dw, dh = (deltas * deltas.new_tensor([0.1, 0.1, 0.2, 0.2])).unbind(-1)
    limit = abs(np.log(16 / 1000))
    width, height = boxes[:, 2] - boxes[:, 0], boxes[:, 3] - boxes[:, 1]
    x, y = boxes[:, 0] + width / 2 + dx * width, boxes[:, 1] + height / 2 + dy * height
    w, h = width * dw.clamp(-limit, limit).exp(), height * dh.clamp(-limit, limit).exp()
    out = torch.stack([x - w / 2, y - h / 2, x + w / 2, y + h / 2], dim=-1)
    return out.clamp(min=0).minimum(out.new_tensor([size[1], size[0]] * 2))


def pasted(logits, boxes, size):
    """Probability maps put into the image with bilinear sampling at pixel centres, cells outside a box being 0."""
    rows, columns = np.mgrid[: size[0], : size[1]] + 0.5
    out = []
    for (x1, y1, x2, y2), probability in zip(boxes.double().numpy(), logits.sigmoid()[:, 0], strict=True):
        grid = np.stack([(columns - x1) / (x2 - x1) * 2 - 1, (rows - y1) / (y2 - y1) * 2 - 1], axis=-1)
        sampled = F.grid_sample(probability[None, None], torch.from_numpy(grid)[None], align_corners=False)
        out.append(sampled[0, 0].numpy() >= 0.5)
    return np.stack(out)


def whole_model(rng, rois, size):
    model = released_model("r50").eval()
    fill(model)
    image = drawn_image(*size)
    with torch.no_grad():
        stages = model.backbone(image)
        pyramid = list(model.neck(stages))
        scores, deltas = model.rpn_head(pyramid)
    shapes = shapes_of()
    box, mask = Layers(shapes, "roi_head.bbox_head."), Layers(shapes, "roi_head.mask_head.")
    contrastive = Layers(shapes, "roi_head.mask_head.contrastive_head.")

    def masks_of(boxes, cams):
        encoded = contrastive.encoder(pooled(pyramid, boxes, 28))
        return mask.mask(pooled(pyramid, boxes, 14), resized(cams, 14), encoded)[3]

    boxes, labels = boxes_in(rng, rois, size), torch.from_numpy(rng.integers(0, 80, rois))
    cls_score, bbox_pred, features = box.box(pooled(pyramid, boxes, 7))
    cams = box.cams(features, labels)
    logits = masks_of(boxes, cams)
    out = {
        "image_sub": image[0, :, ::16, ::16].numpy(),
        "labels": labels.numpy(),
        "cls_score": cls_score.numpy(),
        "rois": np.concatenate([np.zeros((rois, 1), np.float32), boxes.numpy()], axis=1),
        "bbox_pred_sub": bbox_pred.numpy()[:, ::4],
        "cam": cams.numpy(),
        "cam14_norm": normalised(resized(cams, 14).numpy()),
        "mask_logits": logits.numpy(),
        "pasted": pasted(logits, boxes, size),
    }
    for name, maps in (("backbone", stages), ("fpn", pyramid), ("rpn_cls", scores), ("rpn_reg", deltas)):
        out |= {
            f"{name}_mean": np.array([m.mean().item() for m in maps]),
            f"{name}_std": np.array([m.std().item() for m in maps]),
        }
    for level, stride in enumerate((8, 4, 2, 1, 1)):
        out[f"fpn{level}_sub"] = pyramid[level][0, ::32, ::stride, ::stride].numpy()
    return {
        "model_r50": out,
        "model_r50_test": detections(rng, pyramid, box, masks_of, size),
        "mask_branch_train": mask_branch(rng, pyramid, box, mask, contrastive, rois, size),
    }


def detections(rng, pyramid, box, masks_of, size, most=10):
    proposals = boxes_in(rng, 25, size)
    scores, deltas, features = box.box(pooled(pyramid, proposals, 7))
    refined = decode(proposals.double()[:, None].expand(-1, 80, -1).reshape(-1, 4), deltas.view(-1, 4), size)
    flat = scores.softmax(1)[:, :80].flatten()
    classes = torch.arange(80).repeat(len(proposals))
    chosen = torch.nonzero(flat > 0.05)[:, 0]
    kept = []
    for label in classes[chosen].unique():
        mine = chosen[classes[chosen] == label]
        kept.append(mine[nms(refined[mine].float(), flat[mine].float(), 0.5)[1]])
    kept = torch.cat(kept)
    kept = kept[flat[kept].argsort(descending=True)][:most]
    cams = box.cams(features[kept // 80], classes[kept])
    return {
        "proposals": torch.cat([proposals, torch.ones(len(proposals), 1)], dim=1).numpy(),
        "det_bboxes": torch.cat([refined[kept], flat[kept, None]], dim=1).numpy(),
        "det_labels": classes[kept].numpy(),
        "det_cams": cams.numpy(),
        "mask_logits": masks_of(refined[kept].float(), cams).numpy(),
    }


def mask_branch(rng, pyramid, box, mask, contrastive, rois, size):
    """One image of three objects, one of which is novel and one fills its box; RoIs are the boxes and loose ones."""
    gt_boxes = torch.tensor([[20.0, 30, 110, 120], [120, 40, 210, 150], [60, 90, 140, 170]])
    rows, columns = np.mgrid[: size[0], : size[1]]
    gt_masks = np.zeros((3, *size), bool)
    for one, (x1, y1, x2, y2), whole in zip(gt_masks, gt_boxes.numpy(), (False, False, True), strict=True):
        inside = ((columns - (x1 + x2) / 2) / (x2 - x1)) ** 2 + ((rows - (y1 + y2) / 2) / (y2 - y1)) ** 2 < 0.2
        one[:] = inside if not whole else (columns >= x1) & (columns < x2) & (rows >= y1) & (rows < y2)
    gt_labels, gt_is_novel = np.array([7, 0, 20]), np.array([False, True, False])
    owners = np.concatenate([np.arange(3), rng.integers(0, 2, rois)])
    loose = gt_boxes[owners[3:]] + torch.from_numpy(rng.uniform(-8, 8, (rois, 4)).astype(np.float32))
    positive = torch.cat([gt_boxes, loose])
    is_gt = np.arange(len(owners)) < 3
    is_novel = gt_is_novel[owners]
    targets = mask_targets(gt_masks, positive, owners)
    levels = [level.detach().clone().requires_grad_() for level in pyramid]
    contrastive.values = mask.values = box.values  # one set of parameters: their gradients are asked for by name
    named = trainable(box, "roi_head.")
    _, _, features = box.box(pooled(levels, positive, 7))
    cams = box.cams(features, torch.from_numpy(gt_labels[owners]))
    cams14 = resized(cams, 14)
    encoded = contrastive.encoder(pooled(levels, positive, 28).detach())
    logits = mask.mask(pooled(levels, positive, 14), cams14, encoded)[3]
    in_loss = torch.from_numpy(is_gt & ~is_novel)
    loss_mask = F.binary_cross_entropy_with_logits(logits[in_loss, 0], torch.from_numpy(targets)[in_loss].double())
    cams28 = resized(cams14, 28).detach()
    found = contrast(
        contrastive.projector(encoded, True).view(len(owners), 784, -1),
        targets,
        normalised(cams28.numpy())[:, 0].astype(np.float32),
        is_novel,
    )
    total = 0.25 * 0.1 * found["terms"].sum()
    out = {
        "gt_masks": gt_masks,
        "gt_bboxes": gt_boxes.numpy(),
        "gt_labels": gt_labels,
        "gt_is_novel": gt_is_novel,
        "pos_bboxes": positive.numpy(),
        "neg_bboxes": boxes_in(rng, 4, size).numpy(),
        "pos_assigned_gt_inds": owners,
        "pos_is_gt": is_gt,
        "mask_targets": targets,
        "edges": np.stack([edge_map(target) for target in targets]),
        "cams28": cams28.numpy(),
        "is_novel": is_novel,
        "keeps": found["keeps"],
        "num_keys": phantom(found, targets, is_novel),
        "mask_logits": logits.detach().numpy(),
        "loss_mask": loss_mask.detach().numpy(),
        "loss_contrastive": total.detach().numpy(),
        "num_all": np.int32(len(owners)),
        "num_base": np.int32(in_loss.sum()),
    }
    for name, value in (("mask", loss_mask), ("contrastive", total)):
        reached = torch.autograd.grad(value, [tensor for _, tensor in named], retain_graph=True, allow_unused=True)
        out[f"{name}_has_grad"] = np.array([g is not None for g in reached])
        out |= gradients(f"{name}_grad", value, named, "")
        own = torch.autograd.grad(value, levels, retain_graph=True, allow_unused=True)
        out[f"{name}_fpn_grad_l2"] = np.array([0.0 if g is None else g.double().norm().item() for g in own])
    return out


def phantom(found, targets, is_novel):
    """Counts as the released code has them: it makes an edge up where a mask has none (W23)."""
    counts = found["counts"].copy()
    for roi, (target, novel) in enumerate(zip(targets, is_novel, strict=True)):
        if not novel and target.all():
            counts[:, roi] = [780, 0, 4, 0]
    return counts


MAKERS = {
    "edges": edges,
    "partitions": partitions,
    "sample_counts": sample_counts,
    "loss": loss,
    "enhance": enhance_,
    "cam": cam,
    "clhead_eval": clhead_eval,
    "clhead_train": clhead_train,
    "maskhead_eval": maskhead_eval,
}
