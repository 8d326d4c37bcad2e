"""CPMask's head once more in plain functions, and fixtures of any size that its numbers make.

Written from the description of the method, without the modules that are tested: names are the authors'.
"""

import numpy as np
import torch
import torch.nn.functional as F
from pycocotools import mask as rle
from torch import nn


def parameters(channels, convs, boundary_convs, seed=0):
    """Random parameters and buffers of the head by name; large enough for every part to count."""
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape, scale=None):
        scale = (2 / np.prod(shape[1:])) ** 0.5 if scale is None else scale
        return scale * torch.randn(shape, generator=generator)

    found = {}
    shapes = {f"mask_fcn{i + 1}": (channels, channels, 3, 3) for i in range(convs)}
    shapes |= {"deconv": (channels, channels, 2, 2), "predictor": (1, channels, 1, 1)}
    shapes |= {f"{part}_transform": (channels, channels, 1, 1) for part in ("query", "key", "value", "output")}
    shapes |= {f"boundary_fcn{i + 1}": (channels, channels, 3, 3) for i in range(boundary_convs)}
    shapes |= {"boundary_deconv": (channels, channels, 2, 2), "boundary_predictor": (1, channels, 1, 1)}
    shapes |= {"boundary_gate": (1, 2 * channels, 1, 1)}
    for name, shape in shapes.items():
        outputs = shape[1] if "deconv" in name else shape[0]
        found |= {f"{name}.weight": draw(*shape), f"{name}.bias": draw(outputs, scale=0.05)}
    found["mask_transform.weight"] = draw(channels, channels, 1, 1)
    for norm in ("mask_transform.norm", "blocker"):
        found |= {f"{norm}.weight": 1 + draw(channels, scale=0.2), f"{norm}.bias": draw(channels, scale=0.1)}
    found["blocker.running_mean"] = draw(channels, scale=0.1)
    found["blocker.running_var"] = 1 + draw(channels, scale=0.1).abs()
    found["blocker.num_batches_tracked"] = torch.tensor(0)
    return found


def head(given, x, training, groups):
    """Logits of masks and boundaries, affinity, and the running statistics afterwards."""

    def conv(name, at, **options):
        return F.conv2d(at, given[f"{name}.weight"], given.get(f"{name}.bias"), **options)

    def upsampled(name, at):
        return F.conv_transpose2d(at, given[f"{name}.weight"], given[f"{name}.bias"], stride=2).relu()

    def stacked(prefix, at):
        number = 1
        while f"{prefix}{number}.weight" in given:
            at, number = conv(f"{prefix}{number}", at, padding=1).relu(), number + 1
        return at

    parsed = stacked("boundary_fcn", x)
    boundaries = conv("boundary_predictor", upsampled("boundary_deconv", parsed))
    gate = torch.sigmoid(conv("boundary_gate", torch.cat([x, parsed], 1)))
    norm = given["mask_transform.norm.weight"], given["mask_transform.norm.bias"]
    y = stacked("mask_fcn", F.group_norm(conv("mask_transform", x + parsed * gate), groups, *norm).relu())
    rois, channels, height, width = y.shape
    query, key, value = (conv(f"{part}_transform", y).relu().flatten(2) for part in ("query", "key", "value"))
    query, key = ((part - part.mean(1, keepdim=True)) / part.std(1, keepdim=True) for part in (query, key))
    affinity = torch.stack(
        [(q.t() @ k / channels**0.5).softmax(1) for q, k in zip(query, key, strict=True)]
    )  # [R, N queries, N keys]
    gathered = torch.stack([v @ a.t() for v, a in zip(value, affinity, strict=True)]).view(
        rois, channels, height, width
    )
    mean, variance = given["blocker.running_mean"].clone(), given["blocker.running_var"].clone()
    added = F.batch_norm(
        conv("output_transform", gathered).relu(),
        mean,
        variance,
        given["blocker.weight"],
        given["blocker.bias"],
        training,
        momentum=0.1,
        eps=1e-4,
    )
    masks = conv("predictor", upsampled("deconv", y + added))
    return masks, boundaries, affinity, mean, variance


def boundary(mask):
    """Of one mask [H, W], cell by cell."""
    height, width = mask.shape
    found = np.zeros_like(mask)
    for row in range(height):
        for column in range(width):
            cross = [(row, column), (row - 1, column), (row + 1, column), (row, column - 1), (row, column + 1)]
            inside = [mask[r, c] for r, c in cross if 0 <= r < height and 0 <= c < width]
            found[row, column] = any(inside) and not all(inside)
    return found


def losses(masks, boundaries, affinity, targets):
    """Losses with their weights, RoI by RoI, and how much attention stays in the foreground of each."""
    step = targets.shape[-1] // round(affinity.shape[-1] ** 0.5)
    within = []
    for attention, target in zip(affinity, targets, strict=True):
        rows = torch.tensor(target[::step, ::step].reshape(-1)).nonzero()[:, 0]
        within.append(attention[rows][:, rows].sum(1).mean() if len(rows) > 1 else None)
    counted = [value for value in within if value is not None]
    edges = np.stack([boundary(target) for target in targets])

    def entropy(logits, wanted):
        return nn.BCEWithLogitsLoss()(logits[:, 0], torch.tensor(wanted, dtype=torch.float32))

    affine = sum((1 - value).abs() for value in counted) / len(counted)
    return (
        {"mask": entropy(masks, targets), "boundary": 0.5 * entropy(boundaries, edges), "affinity": 0.5 * affine},
        torch.stack(within),
        edges,
    )


def outlines(rois, size, seed=0):
    """Boxes [R, 4], a polygon [R, 20] in each, and its mask [R, size, size] as pycocotools draws it."""
    rng = np.random.default_rng(seed)
    boxes, polygons, masks = [], [], []
    for _ in range(rois):
        left, top = rng.uniform(0, 200, 2)
        width, height = rng.uniform(20, 150, 2)
        angles = np.linspace(0, 2 * np.pi, 10, endpoint=False)
        reach = rng.uniform(0.25, 0.5, 10)
        points = np.stack(
            [left + width * (0.5 + reach * np.cos(angles)), top + height * (0.5 + reach * np.sin(angles))]
        )
        box, polygon = np.float32([left, top, left + width, top + height]), points.T.reshape(-1).astype(np.float32)
        drawn = polygon.astype(np.float64)
        drawn[0::2] = (drawn[0::2] - box[0]) * (size / (box[2] - box[0]))
        drawn[1::2] = (drawn[1::2] - box[1]) * (size / (box[3] - box[1]))
        boxes.append(box)
        polygons.append(polygon)
        masks.append(rle.decode(rle.merge(rle.frPyObjects([drawn.tolist()], size, size))).astype(bool))
    return np.stack(boxes), np.stack(polygons), np.stack(masks)


def write(folder, rois, channels, size, convs, boundary_convs, seed=0):
    """Write `head.npz`, `head_grads.npz` and `head_param_names.json` of one size."""
    import json

    given = parameters(channels, convs, boundary_convs, seed)
    groups = 32 if channels % 32 == 0 else next(g for g in range(31, 0, -1) if channels % g == 0)
    x = torch.randn(rois, channels, size, size, generator=torch.Generator().manual_seed(seed + 1))
    boxes, polygons, targets = outlines(rois, 2 * size, seed)
    arrays = {f"param.{name}": value.numpy() for name, value in given.items()}
    evaluated = head(given, x, False, groups)
    names = [name for name in given if not name.startswith(("blocker.running", "blocker.num"))]
    leaves = {name: given[name].clone().requires_grad_() for name in names}
    x.requires_grad_()
    masks, boundaries, affinity, mean, variance = head(given | leaves, x, True, groups)
    values, within, edges = losses(masks, boundaries, affinity, targets)
    cells = targets[:, ::2, ::2]
    arrays |= {
        "roi_feats": x.detach().numpy(),
        "boxes": boxes,
        "polygons": polygons,
        "mask_targets": targets,
        "boundary_targets": edges,
        "mask_targets14": cells,
        "eval_mask_logits": evaluated[0].numpy(),
        "eval_boundary_logits": evaluated[1].numpy(),
        "mask_logits": masks.detach().numpy(),
        "boundary_logits": boundaries.detach().numpy(),
        "after.blocker.running_mean": mean.numpy(),
        "after.blocker.running_var": variance.numpy(),
        "affinity_per_roi": within.detach().numpy(),
        "affinity_diag": affinity.detach().diagonal(dim1=1, dim2=2).numpy(),
        "affinity_roi0_rows": affinity.detach()[0, ::7].numpy(),
        "affinity_colsum": affinity.detach().sum(1).numpy(),
        **{f"loss_{name}": np.float32(value.item()) for name, value in values.items()},
    }
    np.savez(folder / "head.npz", **arrays)
    found = {}
    for name, value in values.items():
        name = "affinity_differentiable" if name == "affinity" else name
        gradients = torch.autograd.grad(value, [x, *leaves.values()], retain_graph=True, allow_unused=True)
        found[f"grad_{name}_roi_feats"] = gradients[0].numpy()
        found[f"has_grad_{name}"] = np.array([gradient is not None for gradient in gradients[1:]])
        found[f"grad_{name}_l2"] = np.float32([0 if g is None else g.norm() for g in gradients[1:]])
        for key, gradient in zip(names, gradients[1:], strict=True):
            if gradient is not None and gradient.numel() < 2000:
                found[f"grad_{name}.{key}"] = gradient.numpy()
    np.savez(folder / "head_grads.npz", **found)
    if convs == boundary_convs == 4:
        (folder / "head_param_names.json").write_text(json.dumps(names))
