"""Fixtures of OPMask of any size, computed in lines of plain torch that share nothing with the implementation."""

import json

import numpy as np
import torch
import torch.nn.functional as F

MOMENTUM, EPS = 0.1, 1e-5


def norm_parameters(key, width, draw):
    return {
        f"{key}.weight": 1 + 0.2 * draw(width),
        f"{key}.bias": 0.1 * draw(width),
        f"{key}.running_mean": 0.1 * draw(width),
        f"{key}.running_var": 1 + 0.3 * torch.rand(width),
        f"{key}.num_batches_tracked": torch.tensor(3),
    }


def batch_norm(x, param, key, train, after):
    if not train:
        mean, variance = param[f"{key}.running_mean"], param[f"{key}.running_var"]
    else:
        mean, variance = x.mean((0, 2, 3)), x.var((0, 2, 3), unbiased=False)
        kept = x.var((0, 2, 3), unbiased=True)
        for name, value in (("running_mean", mean), ("running_var", kept)):
            after[f"{key}.{name}"] = ((1 - MOMENTUM) * param[f"{key}.{name}"] + MOMENTUM * value).detach()
    y = (x - mean[:, None, None]) / (variance[:, None, None] + EPS).sqrt()
    return y * param[f"{key}.weight"][:, None, None] + param[f"{key}.bias"][:, None, None]


def layers(x, param, names, train, after):
    for name in names:
        x = batch_norm(F.conv2d(x, param[f"{name}.weight"], padding=1), param, f"{name}.norm", train, after).relu()
    return x


def normalised(maps):
    flat = maps.flatten(1)
    low, high = flat.min(1, keepdim=True)[0], flat.max(1, keepdim=True)[0]
    return ((flat - low) / (high - low)).view_as(maps)


def parameters(param):
    names = [name for name in param if "running" not in name and "tracked" not in name]
    return {name: param[name].requires_grad_() for name in names}


def saved(folder, name, arrays):
    np.savez(
        folder / f"{name}.npz",
        **{
            key: value.detach().numpy() if torch.is_tensor(value) else np.asarray(value)
            for key, value in arrays.items()
        },
    )


def write_cam(folder, rois=4, widths=(8, 16, 24, 24), classes=4, size=5):
    draw = torch.randn
    names = [f"conv{number}" for number in range(1, len(widths))]
    param = {}
    for name, inner, outer in zip(names, widths, widths[1:], strict=False):
        param[f"{name}.weight"] = draw(outer, inner, 3, 3) / (3 * inner**0.5)
        param |= norm_parameters(f"{name}.norm", outer, draw)
    last = widths[-1]
    param |= {"cls_score.weight": draw(classes + 1, last), "cls_score.bias": draw(classes + 1)}
    param |= {"bbox_pred.weight": draw(4 * classes, last), "bbox_pred.bias": draw(4 * classes)}
    arrays = {f"param.{name}": value.clone() for name, value in param.items()}
    trained = parameters(param)
    x, labels = draw(rois, widths[0], size, size).requires_grad_(), torch.randint(classes, (rois,))
    upstream, after = draw(rois, 1, 2 * size, 2 * size), {}
    arrays |= {"roi_feats": x, "labels": labels, "upstream14": upstream}
    for mode in ("eval", "train"):
        features = layers(x, param, names, mode == "train", after)
        pooled = features.mean((2, 3))
        every = F.conv2d(features, param["cls_score.weight"].detach()[:, :, None, None])
        own = torch.stack([every[roi, label] for roi, label in enumerate(labels)])[:, None]
        large = F.interpolate(normalised(own), scale_factor=2, mode="bilinear", align_corners=False)
        arrays[f"{mode}_cls_score"] = F.linear(pooled, param["cls_score.weight"], param["cls_score.bias"])
        arrays[f"{mode}_bbox_pred"] = F.linear(pooled, param["bbox_pred.weight"], param["bbox_pred.bias"])
        arrays |= {f"{mode}_conv_feats": features, f"{mode}_cam14": large}
    arrays |= {"train_cam_all": every, "train_cam7": own, "train_cam7_norm": normalised(own)}
    found = torch.autograd.grad((upstream * large).sum(), [x, features, *trained.values()], allow_unused=True)
    arrays |= {"grad_roi_feats": found[0], "grad_conv_feats": found[1]}
    reached = dict(zip(trained, found[2:], strict=True))
    order = [name for name in trained if name.startswith("conv")] + [
        f"{layer}.{part}" for layer in ("cls_score", "bbox_pred") for part in ("weight", "bias")
    ]
    arrays["has_grad"] = [reached[name] is not None for name in order]
    arrays["grad_l2"] = np.float32([0 if reached[name] is None else reached[name].norm() for name in order])
    arrays |= {f"grad.{name}": reached[name] for name in order if reached[name] is not None}
    arrays |= {f"after.{name}": value for name, value in after.items()}
    saved(folder, "cam", arrays)
    (folder / "cam_param_names.json").write_text(json.dumps(order))


def write_mask_head(folder, rois=5, channels=12, convs=3, size=6):
    """One image, no background; every other RoI supervised as `voc`."""
    draw = torch.randn
    names = [f"mask_down{number}" for number in range(1, convs + 1)]
    param = {}
    for name in names:
        param[f"{name}.weight"] = draw(channels, channels, 3, 3) / (3 * channels**0.5)
        param |= norm_parameters(f"{name}.norm", channels, draw)
    param |= {"mask_up1.weight": draw(channels, channels, 2, 2) / channels**0.5, "mask_up1.bias": 0.1 * draw(channels)}
    param |= {"predictor.weight": draw(1, channels, 1, 1), "predictor.bias": draw(1)}
    arrays = {f"param.{name}": value.clone() for name, value in param.items()}
    trained = parameters(param)
    x, cams = draw(rois, channels, size, size).requires_grad_(), torch.rand(rois, 1, size, size).requires_grad_()
    # Rectangles whose sides lie on the borders of cells: no rasteriser has a choice.
    boxes = torch.tensor([[10.0 + roi, 20.0, 10.0 + roi + 2 * size, 20.0 + 2 * size] for roi in range(rois)])
    polygons, targets = [], torch.zeros(rois, 2 * size, 2 * size, dtype=torch.bool)
    for roi, (x1, y1, _, _) in enumerate(boxes.tolist()):
        left, top, right, bottom = 1, 2, 4 + roi % size, 2 * size - 2
        targets[roi, top:bottom, left:right] = True
        polygons.append(
            [v for x_, y_ in ((left, top), (right, top), (right, bottom), (left, bottom)) for v in (x1 + x_, y1 + y_)]
        )
    classes = torch.arange(rois)
    used = classes % 2 == 0
    supervised = torch.zeros(80, dtype=torch.bool)
    supervised[classes[used]] = True
    arrays |= {"roi_feats": x, "cams": cams, "all_classes": classes, "all_boxes": boxes, "supervised_odd": supervised}
    arrays |= {"image_of": torch.zeros(rois, dtype=torch.long), "is_foreground": torch.ones(rois, dtype=torch.bool)}
    arrays |= {"polygons": np.float32(polygons), "mask_targets": targets, "loss_odd_without_base": np.float32(0)}
    after = {}
    for mode in ("eval", "train"):
        y = layers(x + cams, param, names, mode == "train", after)
        y = F.conv_transpose2d(y, param["mask_up1.weight"], param["mask_up1.bias"], stride=2).relu()
        logits = F.conv2d(y, param["predictor.weight"], param["predictor.bias"])
        arrays[f"{mode}_logits"] = logits
    loss = F.binary_cross_entropy_with_logits(logits[used, 0], targets[used].float())
    found = torch.autograd.grad(loss, [x, cams, *trained.values()], retain_graph=True)
    arrays |= {"loss_odd": loss, "used_odd": used, "grad_odd_roi_feats": found[0], "grad_odd_cams": found[1]}
    arrays |= {f"grad_odd.{name}": value for name, value in zip(trained, found[2:], strict=True)}
    arrays |= {"loss_all": F.binary_cross_entropy_with_logits(logits[:, 0], targets.float()), "used_all": used | True}
    arrays["grad_odd_l2"] = np.float32([value.norm() for value in found[2:]])
    arrays |= {f"after.{name}": value for name, value in after.items()}
    saved(folder, "mask_head", arrays)
    (folder / "mask_head_param_names.json").write_text(json.dumps(list(trained)))
