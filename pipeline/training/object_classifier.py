"""A backbone that has learned to name single objects: to drawn images what an ImageNet classifier is to photographs.

A detector that starts from nothing first has to find objects in order to learn what they look like. A classifier of
objects that are cut out sees 64 of them in the time in which a detector sees eight images, and no mask.
"""

from pipeline import compat  # noqa: F401  # must precede mmcv

# isort: split

import math

import torch
import torch.nn.functional as F
from mmdet.models import build_backbone
from torch import nn
from tqdm import trange

from pipeline.errors import ExperimentError
from pipeline.tasks.instances.steps import IMAGE_NORM
from pipeline.training.computation import seed_everything
from pipeline.training.schedule import Schedule

WARMUP = 20  # steps


def train(backbone, crops, labels, recipe, seed, device):
    """Train a backbone and a linear classifier of its pooled last stage; flips, cosine, AdamW.

    Args:
        backbone: MMDetection configuration.
        crops: uint8 BGR [N, S, S, 3].
        labels: int64 [N].
        recipe: `iterations`, `batch_size` (crops) and `lr`.
        seed: of initial weights and batches.
        device: 'cuda' or 'cpu'.

    Returns:
        {`backbone.<name>`: tensor} on the CPU.

    Raises:
        ExperimentError: the loss is not finite.
    """
    seed_everything(seed)
    model = build_backbone(dict(backbone))
    model.init_weights()
    model.to(device).eval()
    classes = int(labels.max()) + 1
    with torch.no_grad():  # which moves no statistics of a normalisation
        channels = model(torch.zeros(2, 3, *crops.shape[1:3], device=device))[-1].shape[1]
    model.train()
    classifier = nn.Linear(channels, classes).to(device)
    parameters = [p for part in (model, classifier) for p in part.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=recipe["lr"], weight_decay=1e-4)
    schedule = Schedule(recipe["iterations"], milestones=(), warmup=WARMUP, policy="cosine", epoch=recipe["iterations"])
    chosen = torch.Generator().manual_seed(seed)
    for step in (bar := trange(recipe["iterations"], desc="learning to name objects", unit="step", mininterval=2)):
        for group in optimizer.param_groups:
            group["lr"] = schedule.rate(recipe["lr"], step)
        batch = torch.randint(len(crops), (recipe["batch_size"],), generator=chosen)
        images = _normalised(crops[batch]).to(device)
        if torch.rand((), generator=chosen) < 0.5:
            images = images.flip(3)
        loss = F.cross_entropy(classifier(model(images)[-1].mean((2, 3))), labels[batch].to(device))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if step % 50 == 0 or step + 1 == recipe["iterations"]:
            bar.set_postfix(loss=f"{_finite(loss):.3f}")
    return {f"backbone.{key}": value.cpu() for key, value in model.state_dict().items()}


def _normalised(crops):
    """Crops as the detector's data steps normalise images: float32 RGB [B, 3, S, S]."""
    mean, std = (torch.tensor(IMAGE_NORM[key], dtype=torch.float32).view(1, 3, 1, 1) for key in ("mean", "std"))
    return (crops.permute(0, 3, 1, 2).flip(1).float() - mean) / std


def _finite(loss):
    if not math.isfinite(value := float(loss.detach())):
        raise ExperimentError(
            f"the classifier of initial weights has loss {value}; lower "
            "profiles.<profile>.initial_weights.classifier.lr"
        )
    return value
