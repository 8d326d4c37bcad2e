"""python -m benchmarks.train_step: time and peak memory of a training step of the three methods on the same images.

Models are full size with random weights; images are noise with drawn objects, every second one novel. A step is forward
and backward. Times are processor time on a CPU and wall time on a GPU, medians. The parts are profiler ranges around
modules, forward only; "step" minus "forward" is the backward pass.

--against FOLDER compares the code of another working tree instead: whole steps of the embedded profile (forward,
backward, update, log), in a process for each tree, in turn.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from torch.profiler import ProfilerActivity, profile, record_function

from benchmarks.cl_step import measure
from pipeline import methods
from pipeline.methods.contrastmask.released_checkpoint import BACKBONES, NUM_CLASSES
from pipeline.training.precision import DTYPES, use_autocast

METHODS = ("mask_rcnn", "cam", "contrastmask")
PARTS = {  # submodule and method -> name of the part
    ("backbone", "forward"): "backbone",
    ("neck", "forward"): "FPN",
    ("rpn_head", "forward_train"): "RPN",
    ("roi_head", "_sample"): "RoI assignment and sampling",
    ("roi_head.bbox_roi_extractor", "forward"): "box RoIAlign",
    ("roi_head.bbox_head", "forward_with_features"): "box head",
    ("roi_head", "_mask_targets"): "mask targets",
    ("roi_head.mask_roi_extractor", "forward"): "mask RoIAlign",
    ("roi_head.cl_roi_extractor", "forward"): "CL RoIAlign",
    ("roi_head.cl_head", "forward"): "CL encoder and attention",
    ("roi_head.cl_head.projector", "forward"): "CL projector",
    ("roi_head.cl_head", "loss"): "CL sets, projector, loss",
    ("roi_head.mask_head", "forward"): "mask head",
}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=2)
    parser.add_argument("--height", type=int, default=256)
    parser.add_argument("--width", type=int, default=320)
    parser.add_argument("--objects", type=int, default=10, help="per image")
    parser.add_argument("--backbone", choices=BACKBONES, default="r50")
    parser.add_argument("--recipe", choices=("paper", "released"), default="released")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--precision", choices=DTYPES, default="fp32", help="as in profiles.<profile>.training")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--methods", nargs="+", default=(*METHODS, "two_stage"), help="of --against")
    parser.add_argument("--against", type=Path, help="another working tree, such as one of `git worktree add`")
    parser.add_argument("--serve", help=argparse.SUPPRESS)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    if args.serve:
        return serve(args.serve)
    if args.against:
        return compare(args)
    print(
        f"torch {torch.__version__}, {args.device}, {args.threads} threads, {args.backbone}, recipe {args.recipe}, "
        f"{args.images} images of {args.height}x{args.width}, {args.objects} objects each, {args.precision}"
    )
    results = {method: run(method, args) for method in METHODS}
    rows = list(dict.fromkeys(part for parts, _ in results.values() for part in parts))
    print(f"{'ms':<30}" + "".join(f"{method:>24}" for method in METHODS))
    base = results["mask_rcnn"][0]
    for part in rows:
        cells = [results[method][0].get(part) for method in METHODS]
        print(
            f"{part:<30}"
            + "".join(
                f"{'-' if ms is None else f'{ms:.1f}':>14}"
                + (f" ({ms / base[part]:.2f}x)" if ms and base.get(part) else "").rjust(10)
                for ms in cells
            )
        )
    print(
        f"{'images per second':<30}"
        + "".join(f"{1e3 * args.images / results[method][0]['step']:>14.1f}" + " " * 10 for method in METHODS)
    )
    print(f"{'peak memory, MB':<30}" + "".join(f"{results[method][1]:>14.0f}" + " " * 10 for method in METHODS))
    print(
        " ".join(
            f"{method}_time={results[method][0]['step'] / base['step']:.2f} "
            f"{method}_memory={results[method][1] / results['mask_rcnn'][1]:.2f}"
            for method in METHODS
            if method != "mask_rcnn"
        )
    )


def compare(args):
    """Print milliseconds of processor time of a step in this tree and in another, and the ratio, for each method."""
    here = Path(__file__).resolve().parents[1]
    print(f"{'method':<14}{'there ms':>10}{'here ms':>10}{'here / there':>14}   quartiles of {args.repeats} pairs")
    for method in args.methods:
        there, own = (_server(tree, method, args.threads) for tree in (args.against.resolve(), here))
        pairs = []
        for number in range(args.repeats + 1):
            pair = [_ask(process) for process in ((there, own) if number % 2 else (own, there))]
            pairs.append(pair if number % 2 else pair[::-1])
        for process in (there, own):
            process.stdin.close()
            process.wait()
        pairs = pairs[1:]  # the first step of a process also sets up
        low, ratio, high = statistics.quantiles([mine / other for other, mine in pairs], n=4)
        other, mine = (statistics.median(times) for times in zip(*pairs, strict=True))
        print(f"{method:<14}{other:>10.1f}{mine:>10.1f}{ratio:>14.3f}   {low:.3f} to {high:.3f}", flush=True)


def _server(tree, method, threads):
    """A process that makes steps with the code of a tree; this file itself is ours in both."""
    return subprocess.Popen(
        [sys.executable, __file__, "--serve", method, "--threads", str(threads)],
        env={**os.environ, "PYTHONPATH": str(tree)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )


def _ask(process):
    """Milliseconds of one more step."""
    print("step", file=process.stdin, flush=True)
    return float(process.stdout.readline())


def serve(method):
    """Make a step of the embedded profile for every line on standard input and answer with its milliseconds."""
    from benchmarks.random_kills import move_to
    from pipeline.acceptance.job import DATASET, draw_inputs
    from pipeline.declaration import config, experiments
    from pipeline.training.computation import Computation
    from pipeline.training.journal import Journal

    with tempfile.TemporaryDirectory(prefix="steps") as folder:
        move_to(Path(folder))
        draw_inputs(experiments.load())
        if method == "two_stage":
            training = config.resolve_pretraining("r50", DATASET)
        else:
            training = config.resolve(f"{method}_r50_1x_nonvoc2voc", DATASET, 0)
        room = methods.method(method)
        methods.register(method, training.knobs)
        task = methods.task_of(method)
        computation = Computation(training, lambda: task.training_set(training), room.autocast, None, "cpu")
        journal = Journal(training, Path(folder), computation.steps)
        computation.model.train()
        batch = next(iter(computation._loader(0, workers=1)))
        for number, _ in enumerate(sys.stdin):
            began = time.process_time()
            journal.add(computation._step(number, iter([batch])))
            print(1e3 * (time.process_time() - began), flush=True)


def run(method, args):
    """Return milliseconds of the parts of a step, and its peak memory in MB."""
    from mmcv import Config
    from mmdet.models import build_detector

    from pipeline.training.losses import total

    backbone = {**BACKBONES[args.backbone], "frozen_stages": 1, "norm_eval": True, "style": "pytorch"}
    room = methods.method(method)
    knobs = room.preset(args.recipe)
    methods.register(method, knobs)
    config = room.model(knobs, room.sizes(), backbone, NUM_CLASSES)
    torch.manual_seed(0)
    model = build_detector(Config({"model": config}).model).to(args.device).train()
    if method == "contrastmask":
        model.roi_head.set_progress(0, 4.0, 0, 0)
    data = draw_batch(args)
    use_autocast(model, room.autocast, torch.device(args.device).type, args.precision)

    def forward():
        torch.manual_seed(0)
        return total(model(return_loss=True, **data))[0]

    def step():
        model.zero_grad()
        forward().backward()

    step_ms, peak = measure(step, args.repeats, args.device)
    forward_ms, _ = measure(forward, args.repeats, args.device)
    return {"step": step_ms, "forward": forward_ms, **part_times(model, forward, args.device)}, peak


def part_times(model, forward, device):
    """Return milliseconds of each part of one forward pass."""
    modules = dict(model.named_modules())
    names = {}
    for (place, method), name in PARTS.items():
        if place in modules:
            setattr(modules[place], method, ranged(getattr(modules[place], method), name))
            names[name] = place
    activities = [ProfilerActivity.CPU] + [ProfilerActivity.CUDA] * (device != "cpu")
    with profile(activities=activities) as record:
        forward()
    times = {
        event.key: event.device_time_total if device != "cpu" else event.cpu_time_total
        for event in record.key_averages()
        if event.key in names
    }
    return {name: times[name] / 1e3 for name in names if name in times}


def ranged(function, name):
    """Wrap a method in a profiler range."""

    def wrapped(*args, **kwargs):
        with record_function(name):
            return function(*args, **kwargs)

    return wrapped


def draw_batch(args):
    """Draw images of ellipses on noise; masks of novel objects are empty placeholders."""
    from mmdet.core import BitmapMasks

    rng = np.random.default_rng(0)
    height, width = args.height, args.width
    rows, columns = np.mgrid[:height, :width]
    batch = {"img": [], "img_metas": [], "gt_bboxes": [], "gt_labels": [], "gt_masks": [], "gt_is_novel": []}
    for _ in range(args.images):
        sizes = rng.uniform(0.15, 0.5, (args.objects, 2)) * [width, height]
        corners = rng.uniform(0, 1, (args.objects, 2)) * ([width, height] - sizes)
        centres, radii = (corners + sizes / 2)[..., None, None], (sizes / 2)[..., None, None]
        masks = ((columns - centres[:, 0]) / radii[:, 0]) ** 2 + ((rows - centres[:, 1]) / radii[:, 1]) ** 2 < 1
        is_novel = np.arange(args.objects) % 2 == 1
        image = rng.normal(0, 1, (3, height, width)) + masks.any(0)
        batch["img"].append(image.astype(np.float32))
        batch["img_metas"].append(
            {
                "img_shape": (height, width, 3),
                "pad_shape": (height, width, 3),
                "ori_shape": (height, width, 3),
                "scale_factor": np.ones(4, np.float32),
            }
        )
        batch["gt_bboxes"].append(torch.tensor(np.hstack([corners, corners + sizes]), dtype=torch.float32))
        batch["gt_labels"].append(torch.from_numpy(rng.integers(0, 80, args.objects)))
        batch["gt_masks"].append(BitmapMasks((masks & ~is_novel[:, None, None]).astype(np.uint8), height, width))
        batch["gt_is_novel"].append(torch.from_numpy(is_novel))
    batch["img"] = torch.from_numpy(np.stack(batch["img"]))
    return {
        key: [t.to(args.device) for t in value]
        if isinstance(value, list) and torch.is_tensor(value[0])
        else value.to(args.device)
        if torch.is_tensor(value)
        else value
        for key, value in batch.items()
    }


if __name__ == "__main__":
    main()
