"""python -m benchmarks.methods_parts: parts of the methods beside the structure that their authors' code gives them.

The other structure is this file's own, in plain torch: ShapeProp unfolds the map in every step, Mask^X and OPMask
compute the maps of all classes and pick one, CPMask takes the affinity loss RoI by RoI, ShapeMask upsamples all
channels before its predictor. Both give the same numbers and gradients, which is checked. Full size, on random RoI
features, forward and backward, in turn in one process; processor time, medians, and the peak of memory above the start.
"""

import argparse
import statistics

import torch
import torch.nn.functional as F

from benchmarks.methods_step import measure
from pipeline import compat  # noqa: F401  # must precede mmcv
from pipeline.methods.maskx.mask_head import TransferMaskHead
from pipeline.methods.shapeprop.propagation import normalised, propagate
from pipeline.methods.shared.cam import class_activation_maps
from pipeline.methods.shared.cpmask.affinity import affinity_loss
from pipeline.methods.shared.shapemask.head import Decoder

CHANNELS, CLASSES, CELLS = 256, 80, 14
CLOSE = {"rtol": 1e-3, "atol": 1e-5}


def shapeprop(rois):
    """Message passing: 14 steps of 24 latent channels."""
    latent, weights = drawn(rois, 24, CELLS, CELLS), drawn(rois, 24 * 9, CELLS, CELLS).sigmoid()

    def unfolded(latent, weights):
        share = normalised(weights)
        for _ in range(CELLS):
            around = F.unfold(latent.flatten(0, 1)[:, None], 3, padding=1).view(rois, 24, 9, CELLS, CELLS)
            latent = (around * share).sum(2)
        return latent

    return unfolded, lambda latent, weights: propagate(latent, weights, CELLS), (latent, weights)


def maskx(rois):
    """Transferred weights as the last layer."""
    described = 5 * 1024
    head = TransferMaskHead(
        described_by=described,
        transfer_layers=2,
        transfer_activation="leaky",
        mlp_layers=0,
        mlp_channels=0,
        num_convs=0,
        in_channels=CHANNELS,
        conv_out_channels=CHANNELS,
        num_classes=CLASSES,
        roi_feat_size=CELLS,
    )
    labels, vectors = torch.randint(CLASSES, (rois,)), 0.01 * drawn(CLASSES, described)

    def of_all_classes(features):
        logits = F.conv2d(head.features(features), head.transfer(vectors)[..., None, None])
        return logits[torch.arange(rois), labels][:, None]

    return of_all_classes, lambda features: head(features, labels, vectors), (drawn(rois, CHANNELS, CELLS, CELLS),)


def opmask(rois):
    """Class activation map of the widest layer of the box head."""
    classifier, labels = 0.01 * drawn(CLASSES + 1, 1024), torch.randint(CLASSES, (rois,))

    def of_all_classes(features):
        return F.conv2d(features, classifier[..., None, None])[torch.arange(rois), labels][:, None]

    return (
        of_all_classes,
        lambda features: class_activation_maps(features, classifier[labels]),
        (drawn(rois, 1024, 7, 7),),
    )


def cpmask(rois):
    """Affinity loss."""
    masks, in_loss = torch.rand(rois, 2 * CELLS, 2 * CELLS) < 0.5, torch.ones(rois, dtype=torch.bool)

    def roi_by_roi(affinity):
        within = []
        for attention, mask in zip(affinity, masks, strict=True):
            cells = mask[::2, ::2].flatten().nonzero()[:, 0]
            within.append(attention[cells][:, cells].sum(1).mean())
        return (1 - torch.stack(within)).abs().mean()

    return roi_by_roi, lambda affinity: affinity_loss(affinity, masks, in_loss), (drawn(rois, 196, 196).softmax(-1),)


def shapemask(rois):
    """Decoder of the fine mask: 32x32 cells to 128x128."""
    decoder = Decoder(128, convs=0, upsampling=4, classes=1, norm={})
    decoder.init_weights()
    return lambda x: decoder.predict(decoder.upsample(x)), decoder, (drawn(rois, 128, 32, 32),)


PARTS = {
    "shapeprop": (shapeprop, "message passing", "an unfold per step", 256),
    "maskx": (maskx, "deconvolution and transferred layer", "maps of all classes", 128),
    "opmask": (opmask, "class activation map", "maps of all classes", 256),
    "cpmask": (cpmask, "affinity loss", "RoI by RoI", 128),
    "shapemask": (shapemask, "predictor of the fine mask", "upsampled channels", 16),
}


def main(arguments=None):
    """Measure and print. Returns {part: (times faster, share of the memory)}."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=[*PARTS])
    parser.add_argument("--rois", type=int, help="default: as many as two images have in a step")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--device", default="cpu")
    args = parser.parse_args(arguments)
    torch.set_num_threads(1)
    print(f"torch {torch.__version__}, {args.device}, one thread, median of {args.repeats}")
    print(f"{'':<10}{'RoIs':>5}{'there ms':>10}{'ours ms':>10}{'faster':>8}{'there MB':>10}{'ours MB':>9}{'memory':>8}")
    ratios = {}
    for name in args.parts:
        make, part, structure, usual = PARTS[name]
        rois = args.rois or usual
        there, ours = compare(make, rois, args)
        ratios[name] = there[0] / ours[0], ours[1] / max(there[1], 0.1)
        print(
            f"{name:<10}{rois:>5}{there[0]:>10.1f}{ours[0]:>10.1f}{ratios[name][0]:>7.1f}x{there[1]:>10.0f}"
            f"{ours[1]:>9.0f}{ratios[name][1]:>8.2f}  {part}; there: {structure}",
            flush=True,
        )
    print(*(f"{name}_faster={faster:.2f} {name}_memory={memory:.2f}" for name, (faster, memory) in ratios.items()))
    return ratios


def compare(make, rois, args):
    """(milliseconds, megabytes) of both structures, the authors' first. Raises AssertionError if they differ."""
    torch.manual_seed(0)
    ways = make(rois)
    inputs = [given.to(args.device).requires_grad_() for given in ways[2]]
    found = [through(way, inputs) for way in ways[:2]]
    for there, ours in zip(*found, strict=True):
        torch.testing.assert_close(ours, there, **CLOSE)
    del found, there, ours
    measured = [[], []]
    for number in range(args.repeats):
        for which in (0, 1) if number % 2 else (1, 0):
            measured[which].append(measure(lambda way=ways[which]: through(way, inputs), args.device))
    return [tuple(statistics.median(values) for values in zip(*pairs, strict=True)) for pairs in measured]


def through(way, inputs):
    """The output of a structure and the gradients of its inputs, of the same upstream gradient."""
    found = way(*inputs)
    upstream = torch.linspace(-1, 1, found.numel(), device=found.device).view_as(found)
    return [found.detach(), *torch.autograd.grad(found, inputs, upstream)]


def drawn(*shape):
    return torch.randn(*shape)


if __name__ == "__main__":
    main()
