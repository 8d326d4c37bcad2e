"""Compare RETAB's parts with numbers computed with its authors' code. Imported by no training."""

import numpy as np
import torch

from pipeline.methods.shared import retab
from pipeline.methods.simformer.golden_numbers import uniform, value

PART, GRADIENT = 1e-5, 1e-4  # as in `golden`
NAMES = {
    "trunk.squeeze.0": "f8_3",
    "trunk.squeeze.1": "f8_4",
    "trunk.squeeze.2": "f8_5",
    "embed": "f9",
    "classify": "f9",
}


def _filled(head, prefix):
    state = head.state_dict()
    head.load_state_dict(
        {k: value(f"{prefix}.{NAMES[k.removesuffix('.weight')]}.weight", t.shape) for k, t in state.items()}
    )
    return head


def _features(prefix, size):
    channels = (before for before, _ in retab.TRUNK)
    return [uniform(f"{prefix}/conv{k}", (1, count, *size)) for k, count in zip((4, 5, 6), channels, strict=True)]


def _retab(f):
    labels = f["label"].long()
    radius = retab.radius_of(labels.shape)
    kinds = retab.affinity_labels(labels, radius)
    for name, got in zip(("bg_pos", "fg_pos", "neg"), kinds, strict=True):
        f.equal(name, got)
    head = _filled(retab.AffinityHead(), "aff").requires_grad_(False)
    head.embed.weight *= 0.5
    affinity = retab.affinities(head(_features("aff", labels.shape)), radius).requires_grad_()
    f.close("affinity_nxn", affinity, PART)
    losses = retab.affinity_losses(affinity, *(kind[None] for kind in kinds))
    f.close("aff_losses_bg_fg_neg_total", losses, PART)
    losses[3].backward()
    f.close("aff_loss_grad", affinity.grad, GRADIENT)

    parts = f["boundary_seg"]
    size = [side // retab.STRIDE for side in parts.shape]
    logits = _filled(retab.BoundaryHead(), "bnd")(_features("bnd", size), parts.shape)
    f.close("boundary_logits_sub", logits[0, ::4, ::4], PART)
    boundary, background = parts == retab.UNKNOWN, parts == 0
    loss = retab.boundary_loss(logits, *(kind[None] for kind in (boundary, background, ~boundary & ~background)))
    f.close("boundary_loss", loss, PART)
    f.close("boundary_loss_grad_l2", torch.autograd.grad(loss, logits)[0].norm(), GRADIENT)

    inside = f["nonboundary"]
    radius = retab.radius_of(inside.shape)
    affinity = retab.affinities(head(_features("prop", inside.shape)), radius)[0]
    for name, got in zip(
        ("first", "second"), retab.affinity_matrices(affinity, inside.shape, inside, radius), strict=True
    ):
        f.close(f"affinity_{name}", got, PART)
    labels = sorted(int(name.split("_")[1]) for name in f.arrays if name.startswith("cam_"))
    cams = torch.stack([f[f"cam_{label}_s8"] for label in labels])
    shown = [0, *(label + 1 for label in labels)]
    maps = retab.propagated(cams, affinity, inside, radius)
    for name, got in zip(("first", "second"), maps, strict=True):
        f.close(f"{name}_sub", got[:, ::4, ::4], PART)
    f.equal("prediction", np.array(shown)[maps[1].argmax(0).numpy()])


FIXTURES = {"retab.npz": _retab}
