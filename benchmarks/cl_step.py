"""python -m benchmarks.cl_step: the contrastive branch, batched, beside an implementation that loops over RoIs.

The loop is this file's own, in the form such code usually has: masks and CAMs go to the CPU, edges, distances, sets and
draws are made RoI by RoI, keys are gathered into lists, attention holds its weights. Both compute the released form of
the loss with the same numbers of keys. Times are wall time, medians, so nothing else should run beside; memory is the
peak above the start.
"""

import argparse
import math
import random
import statistics
import time
from pathlib import Path

import numpy as np
import torch
from scipy import ndimage
from torch.nn import functional

from pipeline import compat  # noqa: F401  # must precede mmcv
from pipeline.methods.contrastmask import losses, partition, sampling
from pipeline.methods.contrastmask.attention import enhance
from pipeline.methods.contrastmask.cl_head import ContrastiveHead, rows_of_cells
from pipeline.methods.contrastmask.released_checkpoint import released_config
from pipeline.methods.shared import cam
from pipeline.methods.shared.draws import step_generator

SIZE = 28
CHANNELS = 256


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rois", type=int, nargs="+", default=[32, 128, 256])
    parser.add_argument("--repeats", type=int, default=5, help="repetitions of the quick parts; slow parts run once")
    parser.add_argument("--quick", action="store_true", help="leave out the parts dominated by convolutions")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    random.seed(0)
    # A training step's convolutions have grown the heap long before; without this small parts pay for fresh pages.
    torch.zeros(7_000_000)
    print(f"torch {torch.__version__}, {args.device}, {args.threads} threads, {CHANNELS} channels, {SIZE}x{SIZE} cells")
    print(
        f"{'part':<34}{'RoIs':>5}{'loop ms':>10}{'ours ms':>10}{'faster':>8}{'loop MB':>9}{'ours MB':>9}{'memory':>8}"
    )
    ratios = {}
    for rois in args.rois:
        ratios = compare(rois, args)
    print(f"rois={args.rois[-1]} " + " ".join(f"{name}={value:.2f}" for name, value in ratios.items()))


def compare(rois, args):
    """Print one line per part and return the ratios."""
    config = released_config({"type": "ResNet", "depth": 50})["roi_head"]["cl_head"]
    head = ContrastiveHead(**{key: value for key, value in config.items() if key != "type"}).to(args.device)
    masks, cams, is_novel = (t.to(args.device) for t in draw_rois(rois))
    ratios = {}

    def line(name, key, loop, ours, repeats):
        loop_ms, loop_mb = measure(loop, repeats, args.device)
        ours_ms, ours_mb = measure(ours, repeats, args.device)
        ratios[f"{key}_speedup"] = loop_ms / ours_ms
        ratios[f"{key}_memory"] = ours_mb / max(loop_mb, 0.1)
        print(
            f"{name:<34}{rois:>5}{loop_ms:>10.1f}{ours_ms:>10.1f}{loop_ms / ours_ms:>7.1f}x{loop_mb:>9.0f}"
            f"{ours_mb:>9.0f}{ratios[f'{key}_memory']:>8.2f}",
            flush=True,
        )

    line(
        "edges, partition, sampling",
        "sets",
        lambda: loop_sets(masks, cams, is_novel, head),
        lambda: batched_sets(masks, cams, is_novel, head),
        args.repeats,
    )
    cells = torch.randn(rois, SIZE * SIZE, CHANNELS, device=args.device, requires_grad=True)
    sides, keys, keep = batched_sets(masks, cams, is_novel, head)
    line(
        "loss, forward and backward",
        "loss",
        lambda: backward(loop_loss(cells, sides, keys, keep, head), cells),
        lambda: backward(head.terms(cells, sides, keys, keep).sum(), cells),
        args.repeats,
    )
    features = torch.randn(rois, CHANNELS, SIZE, SIZE, device=args.device).relu()
    rows = features.contiguous(memory_format=torch.channels_last)
    with torch.no_grad():
        line("attention, forward", "attention", lambda: loop_attention(features), lambda: enhance(rows), 3)
    line(
        "attention, forward and backward",
        "attention_training",
        lambda: through(loop_attention, features),
        lambda: through(enhance, rows),
        1,
    )
    if args.quick:
        return ratios
    head.train()
    line(
        "encoder, projector, attention",
        "network",
        lambda: loop_network(head, features),
        lambda: [head.projector(head(features)[0])],
        1,
    )
    head.eval()
    with torch.no_grad():
        line("the branch at test time", "test", lambda: loop_test(head, features, cams), lambda: head(features), 1)
    return ratios


def draw_rois(rois):
    """Draw ellipses that fill part of a RoI, their noisy CAMs, and flags; every second RoI is novel."""
    rng = np.random.default_rng(0)
    rows, columns = np.mgrid[:SIZE, :SIZE]
    centres, radii = rng.uniform(0.4, 0.6, (2, rois, 1, 1)) * SIZE, rng.uniform(0.2, 0.4, (2, rois, 1, 1)) * SIZE
    masks = ((rows - centres[0]) / radii[0]) ** 2 + ((columns - centres[1]) / radii[1]) ** 2 < 1
    coarse = masks.reshape(rois, 7, SIZE // 7, 7, SIZE // 7).mean((2, 4)) + rng.normal(0, 0.05, (rois, 7, 7))
    maps = cam.resize_map(cam.resize_map(torch.from_numpy(coarse).float()[:, None], SIZE // 2), SIZE)
    return torch.from_numpy(masks), maps, torch.arange(rois) % 2 == 1


def batched_sets(masks, cams, is_novel, head):
    """Return sides [2, R, P], sampled keys [4, R, P] and kept RoIs [R], as training computes them from raw CAMs."""
    priors, has_prior = cam.min_max_normalise(cams)
    sets = partition.partition(masks, priors[:, 0], ~is_novel, has_prior, head.rule)
    keep = sets.keeps(head.rule.min_keys)
    keys = sampling.sample_keys(sets, keep, head.sampling_rule, step_generator(0, 0, 0, masks.device))
    return sets.sides, keys, keep


def loop_sets(masks, cams, is_novel, head):
    """The same, one thing after the other, RoI by RoI on the CPU."""
    rule, sigma = head.rule, head.sampling_rule.sigma
    masks, cams = masks.cpu(), cams.cpu()[:, 0]
    edges = torch.stack([torch.from_numpy(loop_edge(mask.numpy())) for mask in masks])
    sides, four_sets, keep = [], [], []
    for mask, edge, raw, novel in zip(masks, edges, cams, is_novel.cpu(), strict=True):
        prior = (raw - raw.min()) / (raw.max() - raw.min())
        near = torch.from_numpy(ndimage.distance_transform_edt(~edge.numpy()) < 2)
        ring = near & ~edge
        if novel:
            side = [prior > 1 - rule.delta, prior < rule.delta]
            sets = side + side
        else:
            side = [mask, ~mask]
            if mask.sum() < partition.TINY_SIDE_CELLS:
                side[0] = prior > partition.TINY_FOREGROUND_ABOVE
            if (~mask).sum() < partition.TINY_SIDE_CELLS:
                side[1] = prior < partition.TINY_BACKGROUND_BELOW
            sets = [mask & ~ring, ~mask & ~near, mask & ring, ~mask & ring]
        sides.append(torch.stack(side))
        four_sets.append(sets)
        keep.append(all(cells.sum() >= rule.min_keys for cells in sets))
    keys = torch.zeros(4, len(masks), masks[0].numel(), dtype=torch.bool)
    for which in range(4):
        for n, sets in enumerate(four_sets):
            if keep[n]:
                cells = sets[which].flatten().nonzero()[:, 0]
                ranks = random.sample(range(len(cells)), math.ceil(sigma * len(cells)))
                keys[which, n, cells[ranks]] = True
    return torch.stack(sides, 1).flatten(2), keys, torch.tensor(keep)


def loop_edge(mask):
    along_y, along_x = np.gradient(mask.astype(np.float32))
    return np.hypot(along_y, along_x) != 0


def loop_loss(cells, sides, keys, keep, head):
    """The four terms on keys gathered RoI by RoI."""
    kept = keep.nonzero()[:, 0].tolist()
    per_roi = cells.unbind(0)
    queries = [torch.stack([per_roi[n][sides[side, n]].mean(0) for n in kept]).mean(0) for side in (0, 1)]
    pools = [torch.cat([per_roi[n][keys[k, n]] for n in kept]) for k in range(4)]
    terms = []
    for query, positives, negatives, tau in losses.TERMS:
        tau, q = getattr(head.form, tau), queries[query][None]
        own = functional.cosine_similarity(q, pools[positives] - q)
        others = (functional.cosine_similarity(q, pools[negatives] - q) / tau).exp().sum()
        terms.append(-(own / tau - (own.exp() + others).log()).mean())
    return torch.stack(terms).sum()


def loop_attention(features):
    """Attention with its weights in memory."""
    cells = features.flatten(2)
    unit = functional.normalize(cells, dim=1)
    weights = torch.matmul(unit.transpose(1, 2), unit).softmax(-1)
    return torch.matmul(cells, weights.transpose(1, 2)).view_as(features)


def loop_network(head, features):
    """Encoder, projector and attention in the usual layout."""
    encoded = head.encoder(features)
    return head.projector(encoded), loop_attention(encoded)


def loop_test(head, features, cams):
    """The test path with everything the training path has: projector and query sets that nobody reads."""
    encoded = head.encoder(features)
    rows_of_cells(head.projector(encoded))
    [(prior > 0.92, prior < 0.08) for prior in cams.cpu().numpy()]
    return functional.interpolate(loop_attention(encoded), size=head.join_size, mode="bilinear")


def backward(loss, leaf):
    leaf.grad = None
    loss.backward()


def through(attention, features):
    features = features.detach().requires_grad_()
    attention(features).sum().backward()


def measure(run, repeats, device):
    """Return median milliseconds and peak megabytes above the start; a first call is not counted if there are more."""
    if repeats > 1:
        run()
    times, peaks = [], []
    for _ in range(repeats):
        if device == "cpu":
            before = _reset_peak()
            start = time.perf_counter()
            run()
            times.append(time.perf_counter() - start)
            peaks.append(_status("VmHWM") - before)
        else:
            torch.cuda.synchronize()
            torch.cuda.reset_peak_memory_stats()
            before, start = torch.cuda.memory_allocated(), time.perf_counter()
            run()
            torch.cuda.synchronize()
            times.append(time.perf_counter() - start)
            peaks.append((torch.cuda.max_memory_allocated() - before) / 2**20)
    return 1e3 * statistics.median(times), max(peaks)


def _reset_peak():
    """Start the kernel's peak counter of this process anew and return the memory in use, MB."""
    Path("/proc/self/clear_refs").write_text("5")
    return _status("VmRSS")


def _status(name):
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(name)) / 1024


if __name__ == "__main__":
    main()
