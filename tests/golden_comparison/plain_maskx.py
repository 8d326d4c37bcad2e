"""Fixtures of Mask^X R-CNN's mask branch of any size, in plain torch that shares nothing with the implementation."""

import numpy as np
import torch
import torch.nn.functional as F


def write_head(folder, rois=4, classes=3, width=5, channels=6, convs=2, size=3, mlp=True):
    """head.npz and head_grads.npz; the first RoI has nothing to learn."""
    draw, cells, names = torch.randn, (2 * size) ** 2, [f"_[mask]_fcn{number}" for number in range(1, convs + 1)]
    param = {}
    for name in names:
        param |= {f"{name}_w": draw(channels, channels, 3, 3) / (3 * channels**0.5), f"{name}_b": 0.1 * draw(channels)}
    param |= {"conv5_mask_w": draw(channels, channels, 2, 2) / channels**0.5, "conv5_mask_b": 0.1 * draw(channels)}
    param |= {"bbox2mask_mlp_l1_w": draw(channels, 5 * width), "bbox2mask_mlp_l1_b": draw(channels)}
    param |= {"mask_fcn_logits_w_flat_w": draw(channels, channels), "mask_fcn_logits_w_flat_b": draw(channels)}
    if mlp:
        param |= {
            "mask_mlp_logits_raw_w": 0.1 * draw(cells, channels * cells),
            "mask_mlp_logits_raw_b": draw(cells),
        }
    param = {name: value.requires_grad_() for name, value in param.items()}
    x = draw(rois, channels, size, size).requires_grad_()
    classifier, regressor = draw(classes, width), draw(4 * classes, width)

    trunk = x
    for name in names:
        trunk = F.conv2d(trunk, param[f"{name}_w"], param[f"{name}_b"], padding=1).relu()
    trunk = F.conv_transpose2d(trunk, param["conv5_mask_w"], param["conv5_mask_b"], stride=2).relu()
    described = torch.stack(
        [torch.cat([classifier[c], *(regressor[4 * c + side] for side in range(4))]) for c in range(classes)]
    )
    hidden = F.leaky_relu(F.linear(described, param["bbox2mask_mlp_l1_w"], param["bbox2mask_mlp_l1_b"]), 0.1)
    weights = F.linear(hidden, param["mask_fcn_logits_w_flat_w"], param["mask_fcn_logits_w_flat_b"])[..., None, None]
    fcn = F.conv2d(trunk, weights)
    logits, common = fcn, None
    if mlp:
        raw = F.linear(trunk.flatten(1), param["mask_mlp_logits_raw_w"], param["mask_mlp_logits_raw_b"])
        common = raw.view(rois, 1, 2 * size, 2 * size)
        logits = fcn + common

    labels = torch.randint(classes, (rois,))
    targets = torch.full((rois, classes, 2 * size, 2 * size), -1, dtype=torch.int8)
    for roi in range(1, rois):
        targets[roi, labels[roi]] = torch.randint(2, (2 * size, 2 * size)).to(torch.int8)
    learnt = targets >= 0
    loss = F.binary_cross_entropy_with_logits(logits[learnt], targets[learnt].float())
    gradients = torch.autograd.grad(loss, [x, *param.values()])
    arrays = {f"param.{name}": value for name, value in param.items()}
    arrays |= {"roi_feats": x, "cls_score_w": classifier, "bbox_pred_w": regressor, "trunk": trunk, "logits": logits}
    arrays |= {"predicted_mask_w": weights, "fcn_logits": fcn, "masks_int32": targets.flatten(1), "loss_mask": loss}
    arrays |= {"det_weight_has_grad": torch.zeros(2, dtype=torch.bool)} | (
        {} if common is None else {"mlp_logits": common}
    )
    np.savez(folder / "head.npz", **{name: value.detach().numpy() for name, value in arrays.items()})
    found = {"grad_roi_feats": gradients[0]} | dict(zip((f"grad.{name}" for name in param), gradients[1:], strict=True))
    np.savez(folder / "head_grads.npz", **{name: value.numpy() for name, value in found.items()})
