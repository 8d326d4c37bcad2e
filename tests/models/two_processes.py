"""Losses and gradients of a detector and of the CL head, the batch shared among processes: run by torchrun.

Usage: torchrun --nproc-per-node N two_processes.py OUT.pth. In one process the whole batch is computed at once.
Everything random is off: all RoIs and keys are used, nothing is suppressed, no batch statistics in the backbone.
"""

import gc
import sys

import torch
from torch import distributed as dist

from pipeline import compat  # noqa: F401
from pipeline.methods.contrastmask import losses, partition
from pipeline.methods.contrastmask.cl_head import ContrastiveHead, rows_of_cells
from pipeline.methods.shared.draws import step_generator
from pipeline.training.collectives import gather, rank, world_size
from pipeline.training.data_parallel import averaged
from tests.models.conftest import batch, build
from tests.models.test_contrastive_head import NOVEL, head, rois

EVERYTHING = {  # every anchor and every proposal is a sample, so counts per image are equal
    "rpn_samples": 10**6,
    "rpn_positive_iou": 0.5,
    "rpn_negative_iou": 0.5,
    "rpn_nms_iou": 1.0,
    "rpn_pre_nms": 50,
    "rpn_post_nms": 50,
    "rcnn_samples": 10**4,
    "rcnn_positive_fraction": 1.0,
}


def detector(**sizes):
    """Two images with as many base objects each: the stock losses divide by counts of one process."""
    model = build("contrastmask", EVERYTHING | sizes, sigma=1.0, mask_loss_rois="base_gt")
    model.backbone.norm_eval = True
    data = batch(images=2, novel=(0,))
    for image in range(2):
        data["gt_labels"][image] = torch.tensor([0, 1, 2, 3])
        data["gt_is_novel"][image] = torch.tensor([True, False, False, False])
    share = slice(None) if world_size() == 1 else slice(rank(), rank() + 1)
    data = {name: value[share] for name, value in data.items()}
    model.train()
    for part in (*model.neck.modules(), *model.roi_head.bbox_head.modules()):
        if isinstance(part, torch.nn.BatchNorm2d):
            part.eval()
    model.roi_head.set_progress(0, 0.0, 0, 0)
    wrapped = averaged(model) if world_size() > 1 else model
    loss, log = model._parse_losses(wrapped(return_loss=True, **data))
    loss.backward()
    return log | {name: value.grad for name, value in model.named_parameters() if value.grad is not None}


class Head(torch.nn.Module):
    """A CL head as a module whose forward is its loss."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, features, masks, cams, has_prior, is_novel):
        encoded, _ = self.model(features)
        generator = step_generator(0, 0, 0, torch.device("cpu"))
        return self.model.loss(encoded, masks, cams, has_prior, is_novel, 1.0, generator)[0]


def share_of(first):
    """RoIs of this process where the first one has `first`."""
    if world_size() == 1:
        return slice(None)
    return slice(first) if rank() == 0 else slice(first, None)


def contrastive(first, **knobs):
    model = Head(head(**{"projector_norm": "none", "exchange_queries": True, **knobs}))
    mine = share_of(first)
    wrapped = averaged(model) if world_size() > 1 else model
    loss = wrapped(*(tensor[mine] for tensor in rois()), NOVEL[mine])
    loss.backward()
    mean = torch.stack(gather(loss.detach())).mean()
    return {"loss": mean} | {
        name: value.grad for name, value in model.named_parameters() if value.grad is not None and value.grad.any()
    }


def batch_norm(first=4):
    """With batch statistics: one process normalises the two shares one after the other, as two processes do."""
    model: ContrastiveHead = head(projector_norm="batch", exchange_queries=True)
    features, masks, cams, has_prior = rois()
    encoded, _ = model(features)
    shares = [slice(first), slice(first, None)]
    sets = partition.partition(masks, cams, ~NOVEL, has_prior, model.rule)
    if world_size() == 1:
        cells = torch.cat([rows_of_cells(model.projector(encoded[share])) for share in shares])
        sides, candidates = sets.sides, sets.candidates
    else:
        mine = shares[rank()]
        cells = rows_of_cells(model.projector(encoded[mine]))
        sides, candidates = sets.sides[:, mine], sets.candidates[:, mine]
    products = losses.compare_with_queries(cells, losses.query_weights(sides), sides.any(-1).t(), False, True)
    terms = losses.contrastive_terms(losses.similarities(*products, "cosine"), candidates, model.form, True)
    return {"terms": torch.stack(gather(terms.detach())).mean(0)}


def main():
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    found = {
        "detector": detector(),
        "normalised detector": detector(normalise=True),
        "head": {f"{first} and {6 - first}": contrastive(first) for first in (3, 5, 6)},
        "alone": {"loss": contrastive(4, exchange_queries=False)["loss"]},
        "batch_norm": batch_norm(),
    }
    if rank() == 0:
        torch.save(found, sys.argv[1])
    gc.collect()  # as in tests/joined.py
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
