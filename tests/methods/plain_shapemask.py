"""A second implementation of what ShapeMask computes, cell by cell in numpy and plain torch, in TensorFlow's layouts.

It makes fixtures of other sizes and values than those of the authors' code, for `pipeline.methods.shapemask.golden`.
Boxes are y1, x1, y2, x2. Nothing of the package is used.
"""

import itertools
import json
import math

import numpy as np
import torch
import torch.nn.functional as F

LEVELS = (3, 4, 5, 6)


def write(folder, seed, images=1, instances=4, cells=6, channels=5, width=4, clusters=3, classes=4, convs=2, up=3):
    """Write every kind of fixture."""
    random = np.random.default_rng(seed)

    def normal(*shape):
        return torch.from_numpy(random.normal(size=shape).astype(np.float32))

    size = 160
    pyramid = {level: normal(images, size >> level, size >> level, channels) for level in LEVELS}
    boxes = drawn_boxes(random, images, instances, size)
    boxes[0, 0] = torch.tensor([3.0, 5.0, 8.0, 9.0])  # smaller than a cell of the finest level
    frames = torch.stack([outer(box, 1.25, size, size) for box in boxes.flatten(0, 1)]).view_as(boxes)
    maps = torch.from_numpy(random.uniform(size=(images, instances, cells, cells)).astype(np.float32))
    levelled = torch.tensor([[[0, 0, s, s] for s in (20.0, 223.9, 224.0, 300.0, 448.0, 2000.0)]])
    of_levels = [
        min(max(math.floor(math.log2(s / 224)) + 4, 3), LEVELS[-1]) for s in (20.0, 223.9, 224, 300, 448, 2000)
    ]
    crops = {f"p{level}": features for level, features in pyramid.items()} | {
        "boxes_yxyx": boxes,
        "outer_boxes_yxyx": frames,
        "crop": crop(pyramid, frames, cells),
        "ones_in_outer": each(seen, torch.ones_like(maps), boxes, frames),
        "mask_in": maps,
        "mask_in_outer": each(seen, maps, boxes, frames),
        "level_boxes_yxyx": levelled,
        "level_of_box": torch.tensor(of_levels, dtype=torch.float32),
    }
    save(folder, "crops", crops)
    _boxes(folder, random)
    targets = (maps > 0.6).float()
    valid = torch.arange(images * instances).view(images, instances) % 3 != 1
    for name, number in (("agnostic", 1), ("classaware", classes)):
        _prior(folder, name, number, random, normal, pyramid, boxes, frames, targets, valid, cells, width, clusters)
    _decoders(folder, random, normal, images, instances, cells, width, convs, up, targets, valid)
    _losses(folder, normal, images, instances)
    _targets(folder, random)
    _kmeans(folder, random)


def save(folder, name, arrays):
    np.savez(folder / f"{name}.npz", **{key: np.asarray(torch.as_tensor(v).detach()) for key, v in arrays.items()})


def drawn_boxes(random, images, instances, size):
    corner = random.uniform(0, size / 2, (images, instances, 2))
    return torch.from_numpy(
        np.concatenate([corner, corner + random.uniform(12, 70, corner.shape)], 2).astype(np.float32)
    )


def outer(box, scale, height, width):
    y1, x1, y2, x2 = box.tolist()
    cy, cx, h, w = (y1 + y2) / 2, (x1 + x2) / 2, scale * (y2 - y1) / 2, scale * (x2 - x1) / 2
    sides = zip((cy - h, cx - w, cy + h, cx + w), (height, width) * 2, strict=True)
    return torch.tensor([min(max(side, 0), last - 1) for side, last in sides])


def bilinear(grid, y, x):
    """A value of [H, W, ...] between its cells; zero outside."""
    y0, x0, total = math.floor(y), math.floor(x), 0.0
    for j, i in itertools.product((y0, y0 + 1), (x0, x0 + 1)):
        if 0 <= j < grid.shape[0] and 0 <= i < grid.shape[1]:
            total = total + (1 - abs(y - j)) * (1 - abs(x - i)) * grid[j, i]
    return total if torch.is_tensor(total) else torch.zeros(grid.shape[2:])


def crop(pyramid, frames, cells):
    found = []
    for image, row in enumerate(frames):
        for y1, x1, y2, x2 in row.tolist():
            level = math.floor(math.log2(math.sqrt((y2 - y1) * (x2 - x1)) / 224)) + 4
            level = min(max(level, LEVELS[0]), LEVELS[-1])
            features, stride = pyramid[level][image], 2**level
            last = features.shape[0] - 1
            places = [
                [min((low + (i + 0.5) * (high - low) / cells) / stride, last) for i in range(cells)]
                for low, high in ((y1, y2), (x1, x2))
            ]
            found += [bilinear(features, y, x) for y, x in itertools.product(*places)]
    return torch.stack(found).view(*frames.shape[:2], cells, cells, -1)


def each(function, *arrays):
    flat = [array.flatten(0, 1) for array in arrays]
    return torch.stack([function(*rows) for rows in zip(*flat, strict=True)]).unflatten(0, arrays[0].shape[:2])


def seen(mask, box, frame):
    """A map of a box in the frame of another: sampled at its corner and whole cells on."""
    n = mask.shape[0]
    (y1, x1, y2, x2), (v1, u1, v2, u2) = box.tolist(), frame.tolist()
    rows = [(v1 + i * (v2 - v1) / n - y1) * n / (y2 - y1) for i in range(n)]
    columns = [(u1 + i * (u2 - u1) / n - x1) * n / (x2 - x1) for i in range(n)]
    return torch.stack([bilinear(mask, y, x) for y, x in itertools.product(rows, columns)]).view(n, n)


def by_foreground(cells, targets, valid):
    """The authors' loss: cells of valid instances by the foreground of all."""
    return (cells * valid[..., None, None]).sum() / (targets.sum() + 1e-20)


def bce(logits, targets, valid):
    cells = -targets * F.logsigmoid(logits) - (1 - targets) * F.logsigmoid(-logits)
    return by_foreground(cells, targets, valid)


def mse(prior, targets, valid):
    return by_foreground(0.5 * (targets - prior) ** 2, targets, valid)


def _boxes(folder, random):
    boxes = drawn_boxes(random, 1, 5, 200)[0]
    noise = torch.from_numpy(random.normal(0, 0.1, (5, 4)).astype(np.float32))
    height, width = 180, 150
    jittered = []
    for (y1, x1, y2, x2), (dx, dy, dw, dh) in zip(boxes.tolist(), noise.tolist(), strict=True):
        h, w = y2 - y1, x2 - x1
        cy, cx = (y1 + y2) / 2 + dy * h, (x1 + x2) / 2 + dx * w
        h, w = h * math.exp(dh), w * math.exp(dw)
        jittered.append([cy - h / 2, cx - w / 2, cy + h / 2, cx + w / 2])
    jittered = torch.tensor(jittered)
    last = torch.tensor([height - 1, width - 1] * 2, dtype=torch.float32)
    clipped = torch.minimum(jittered.clamp(min=0), last)
    edge = torch.tensor([[-4.0, 20, 60, 170], [100, 100, 190, 140]])
    voc = [1, 2, 3, 4, 5, 6, 7, 9, 16, 17, 18, 19, 20, 21, 44, 62, 63, 64, 67, 72]
    others = [i for i in range(1, 91) if i not in (*voc, 12, 26, 29, 30, 45, 66, 68, 69, 71, 83)]
    arrays = {
        "boxes_yxyx": boxes,
        "noise_dx_dy_dw_dh": noise,
        "jittered": jittered,
        "clipped": clipped,
        "outer": torch.stack([outer(box, 1.25, height, width) for box in clipped]),
        "image_size_hw": torch.tensor([height, width]),
        "edge_boxes": edge,
        "edge_outer": torch.stack([outer(box, 1.25, height, width) for box in edge]),
        "padded_to_8": torch.cat([clipped, torch.zeros(3, 4)]),
        "split_voc": torch.tensor(voc),
        "split_nonvoc": torch.tensor(others),
    }
    save(folder, "boxes", arrays)


def _prior(folder, name, classes, random, normal, pyramid, boxes, frames, targets, valid, cells, width, clusters):
    shapes = {"dense/kernel": (5, width), "dense/bias": (width,)}
    shapes |= {"dense_1/kernel": (width, classes * clusters), "dense_1/bias": (classes * clusters,)}
    p = {f"prior_mask/{key}": normal(*shape).requires_grad_() for key, shape in shapes.items()}
    levels = {level: features.clone().requires_grad_() for level, features in pyramid.items()}
    priors = torch.from_numpy(random.uniform(size=(classes, clusters, cells, cells)).astype(np.float32))
    labels = torch.from_numpy(random.integers(0, classes, boxes.shape[:2]))
    reduced = crop(levels, frames, cells) @ p["prior_mask/dense/kernel"] + p["prior_mask/dense/bias"]
    inside = each(seen, torch.ones_like(targets), boxes, frames)
    pooled = (reduced * inside[..., None]).mean((2, 3))
    logits = (pooled @ p["prior_mask/dense_1/kernel"] + p["prior_mask/dense_1/bias"]).unflatten(-1, (classes, clusters))
    weights = each(lambda of_classes, label: of_classes[label].softmax(0), logits, labels)
    mixed = (weights[..., None, None] * priors[labels]).sum(2)
    estimates = each(seen, mixed, boxes, frames)
    loss = mse(estimates, targets, valid)
    loss.backward()
    arrays = {f"param.{key}": value for key, value in p.items()}
    arrays |= {f"grad.{key}": value.grad for key, value in p.items()}
    arrays |= {"priors": priors, "classes": labels.int(), "valid": valid.int(), "prior_weights": weights}
    arrays |= {"prior_in_outer": estimates, "loss_prior": loss}
    if classes == 1:
        arrays |= {"mask_targets": targets, "instance_features": reduced}
        arrays |= {f"grad_p{level}": features.grad for level, features in levels.items() if features.grad is not None}
    save(folder, f"prior_head_{name}", arrays)


def decode(p, scope, features, convs, statistics):
    """Convolutions and batch norm by patches and moments; [N, H, W, C]."""
    for i in range(convs):
        padded = F.pad(features, (0, 0, 1, 1, 1, 1))
        h, w = features.shape[1:3]
        kernel = p[f"{scope}/class-{i}/kernel"]
        features = p[f"{scope}/class-{i}/bias"] + sum(
            padded[:, a : a + h, b : b + w] @ kernel[a, b] for a in range(3) for b in range(3)
        )
        norm = f"{scope}/class-{i}-bn"
        mean, variance = features.mean((0, 1, 2)), features.var((0, 1, 2), unbiased=False)
        n = features[..., 0].numel()
        if statistics is None:
            mean, variance = p[f"{norm}/moving_mean"], p[f"{norm}/moving_variance"]
        else:
            statistics[f"{norm}/moving_mean"] = 0.997 * p[f"{norm}/moving_mean"] + 0.003 * mean
            statistics[f"{norm}/moving_variance"] = 0.997 * p[f"{norm}/moving_variance"] + 0.003 * variance * n / (
                n - 1
            )
        features = (features - mean) / (variance + 1e-4).sqrt() * p[f"{norm}/gamma"] + p[f"{norm}/beta"]
        features = features.clamp(min=0)
    return features


def heads(p, features, prior, convs, up, statistics):
    """Coarse and fine logits [N, S, S], [N, US, US] of features [N, S, S, C] and priors [N, S, S]."""
    lifted = prior[..., None] @ p["coarse_mask/dense/kernel"] + p["coarse_mask/dense/bias"]
    x = decode(p, "coarse_mask", features + lifted, convs, statistics)
    coarse = (x @ p["coarse_mask/class-predict/kernel"][0, 0] + p["coarse_mask/class-predict/bias"])[..., 0]
    inside = (coarse > 0).float()
    mean = torch.stack(
        [f[m > 0].mean(0) if m.any() else torch.zeros(f.shape[-1]) for f, m in zip(features, inside, strict=True)]
    )
    lifted = coarse.sigmoid()[..., None] @ p["fine_mask/dense/kernel"] + p["fine_mask/dense/bias"]
    x = decode(p, "fine_mask", features - mean[:, None, None] + lifted, convs, statistics)
    n, s = x.shape[:2]
    kernel = p["fine_mask/conv2d_transpose/kernel"]
    larger = torch.stack([torch.stack([x @ kernel[a, b].T for b in range(up)], 3) for a in range(up)], 2)
    larger = larger.reshape(n, s * up, s * up, -1) + p["fine_mask/conv2d_transpose/bias"]
    fine = (larger @ p["fine_mask/class-predict/kernel"][0, 0] + p["fine_mask/class-predict/bias"])[..., 0]
    return coarse, fine


def _decoders(folder, random, normal, images, instances, cells, width, convs, up, targets, valid):
    p = {}
    for scope in ("coarse_mask", "fine_mask"):
        shapes = {"dense/kernel": (1, width), "dense/bias": (width,)}
        for i in range(convs):
            shapes |= {f"class-{i}/kernel": (3, 3, width, width), f"class-{i}/bias": (width,)}
            shapes |= {f"class-{i}-bn/{key}": (width,) for key in ("gamma", "beta", "moving_mean", "moving_variance")}
        if scope == "fine_mask":
            shapes |= {"conv2d_transpose/kernel": (up, up, width, width), "conv2d_transpose/bias": (width,)}
        shapes |= {"class-predict/kernel": (1, 1, width, 1), "class-predict/bias": (1,)}
        p |= {f"{scope}/{key}": 0.5 * normal(*shape) for key, shape in shapes.items()}
    for key in p:
        if key.endswith("moving_variance"):
            p[key] = p[key].abs() + 0.5
    names = [key for key in p if "moving" not in key]
    features, prior = normal(images, instances, cells, cells, width), torch.rand(images, instances, cells, cells)
    larger = targets.repeat_interleave(up, 2).repeat_interleave(up, 3)
    statistics, grads = {}, {}
    for part in ("coarse", "fine"):
        leaves = {key: value.clone().requires_grad_(key in names) for key, value in p.items()}
        x, y = features.clone().requires_grad_(), prior.clone().requires_grad_()
        coarse, fine = heads(leaves, x.flatten(0, 1), y.flatten(0, 1), convs, up, statistics)
        coarse, fine = coarse.unflatten(0, (images, instances)), fine.unflatten(0, (images, instances))
        losses = {"coarse": bce(coarse, targets, valid), "fine": bce(fine, larger, valid)}
        losses[part].backward()
        found = {key: leaves[key].grad for key in names} | {"instance_features": x.grad, "prior_in_outer": y.grad}
        grads[f"has_grad_{part}"] = torch.tensor([value is not None for value in found.values()])
        in_front = [f"{s}_mask/class-{i}/bias" for s in ("coarse", "fine") for i in range(convs)]
        kept = {key: value for key, value in found.items() if value is not None and key not in in_front}
        grads |= {f"grad_{part}.{key}": value for key, value in kept.items() if value.abs().max() > 1e-6}
    at_test = heads(p, features.flatten(0, 1), prior.flatten(0, 1), convs, up, None)
    arrays = {f"param.{key}": value for key, value in p.items()}
    arrays |= {f"after.{key}": value for key, value in statistics.items()}
    arrays |= {"instance_features": features, "prior_in_outer": prior, "mask_targets": targets, "valid": valid.int()}
    arrays |= {"coarse_logits": coarse, "fine_logits": fine}
    arrays |= {f"loss_{part}": loss for part, loss in losses.items()}
    arrays["eval_coarse_logits"] = at_test[0].unflatten(0, (images, instances))
    arrays["eval_fine_logits_sub"] = at_test[1][:, ::up, ::up].unflatten(0, (images, instances))
    save(folder, "coarse_fine", arrays)
    save(folder, "coarse_fine_grads", grads)
    (folder / "coarse_fine_param_names.json").write_text(json.dumps([*names, "instance_features", "prior_in_outer"]))


def _losses(folder, normal, images, instances):
    labels = (normal(images, instances, 5, 7) > 0.3).float()
    arrays = {"logits": normal(images, instances, 5, 7), "labels": labels}
    count = torch.arange(images * instances).view(images, instances)
    for case, valid in (("all", count >= 0), ("some", count % 2 == 0), ("none", count < 0)):
        arrays[f"valid_{case}"] = valid.long()
        for kind, function in (("bce", bce), ("mse", mse)):
            logits = arrays["logits"].clone().requires_grad_()
            arrays[f"{kind}_{case}"] = function(logits, labels, valid)
            arrays[f"{kind}_{case}"].backward()
            arrays[f"grad_{kind}_{case}"] = logits.grad
    cells = -F.logsigmoid(-arrays["logits"])
    arrays["bce_empty_labels"] = (cells.double().sum() / 1e-20).float()
    save(folder, "losses", arrays)


def _targets(folder, random):
    height, width = 50, 70
    masks = torch.from_numpy(random.uniform(size=(2, height, width)) > 0.4)
    frames = torch.tensor([[3.3, 7.7, 40.1, 60.9], [0.0, 0.0, height - 1.0, width - 1.0]])
    arrays = {"masks": masks, "outer_boxes_yxyx": frames}
    arrays["normalised_boxes"] = frames / torch.tensor([height, width, height, width])
    cells = 9
    raw = []
    for mask, (y1, x1, y2, x2) in zip(masks.float(), frames.tolist(), strict=True):
        rows = [(y1 + i / (cells - 1) * (y2 - y1)) / height * (height - 1) for i in range(cells)]
        columns = [(x1 + i / (cells - 1) * (x2 - x1)) / width * (width - 1) for i in range(cells)]
        raw.append(torch.stack([bilinear(mask, y, x) for y in rows for x in columns]).view(cells, cells))
    arrays[f"raw{cells}"] = torch.stack(raw)
    arrays[f"target{cells}"] = arrays[f"raw{cells}"] >= 0.5
    save(folder, "targets", arrays)


def _kmeans(folder, random):
    masks = random.uniform(size=(30, 5, 5)) > random.uniform(0.2, 0.8, (30, 1, 1))
    initial = np.array([4, 0, 9])
    rows, centres, before = masks.reshape(30, -1).astype(float), masks[initial].reshape(3, -1).astype(float), None
    rounds = 0
    while True:
        near = np.array([min(range(3), key=lambda k: (((row - centres[k]) ** 2).sum(), k)) for row in rows])
        if before is not None and (near == before).all():
            break
        before, rounds = near, rounds + 1
        centres = np.array([rows[near == k].mean(0) if (near == k).any() else centres[k] for k in range(3)])
    arrays = {"masks": masks, "initial": initial, "assignment": near}
    arrays |= {"centroids": centres.reshape(3, 5, 5).astype(np.float32), "iterations": np.array(rounds)}
    save(folder, "kmeans_ours", arrays)
