"""python -m benchmarks.methods_step: a training step and the inference of every method, as ratios to the baseline.

All that find objects are measured in one run, at the scale of a profile, with random weights on the same noise with
drawn objects, every second one novel; of a method with several forms (`FORMS`) each. Each has a process of its own, and
they take turns, so that what else the machine does falls on all. A step is forward, backward and update; inference has
a score threshold of 0, so that every image has the most detections. Times are processor time on a CPU and wall time on
a GPU, memory is the peak above what the model itself takes; medians of the repeats. The last line has the ratios.

    python -m benchmarks.methods_step                                        # embedded profile, a CPU
    python -m benchmarks.methods_step --profile full --height 800 --width 1088 --device cuda
"""

import argparse
import ctypes
import json
import statistics
import subprocess
import sys
import tempfile
import time

from pipeline import compat  # noqa: F401  # must precede mmcv

# isort: split

import mmcv
import numpy as np
import torch
from mmdet.models import build_detector

from benchmarks.cl_step import _reset_peak, _status
from benchmarks.train_step import draw_batch
from pipeline import methods
from pipeline.declaration import experiments, label_sets
from pipeline.tasks.instances import TASK
from pipeline.training.losses import total
from pipeline.training.progress import Progress
from pipeline.training.update import Update

BASELINE, BACKBONE, EPOCH = "mask_rcnn", "r50", 4.0  # the contrastive loss has its full weight then
KINDS = ("step", "inference")
# Knobs that make of a method what is told apart here: Mask^X with and without its largest layer, CPMask whose affinity
# loss trains, and as its released code has it.
FORMS = {
    "maskx": {"mlp": {"mlp_layers": 1}, "no_mlp": {"mlp_layers": 0}},
    "cpmask": {"gradient": {"affinity_gradient": True}, "released": {"affinity_gradient": False}},
}


def main(arguments=None):
    """Measure and print. Returns {method: {kind: (milliseconds, megabytes)}}."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--profile", default="embedded", help="of pipeline/experiments/profiles.yaml")
    parser.add_argument("--methods", nargs="+", default=forms(), help="default: all that have masks, in each form")
    parser.add_argument("--images", type=int, default=2)
    parser.add_argument("--height", type=int, default=128)
    parser.add_argument("--width", type=int, default=128)
    parser.add_argument("--objects", type=int, default=8, help="per image")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--serve", help=argparse.SUPPRESS)
    args = parser.parse_args(arguments)
    if args.serve:
        return serve(args)
    given = sys.argv[1:] if arguments is None else [str(word) for word in arguments]
    names = [BASELINE, *(name for name in args.methods if name != BASELINE)]
    print(
        f"torch {torch.__version__}, {args.device}, one thread, profile {args.profile}, {args.images} images of "
        f"{args.height}x{args.width}, {args.objects} objects each, median of {args.repeats}"
    )
    processes = {name: _server(name, given) for name in names}
    found = {name: {kind: [] for kind in KINDS} for name in names}
    for number in range(args.repeats + 1):
        for name in names if number % 2 else names[::-1]:
            for kind in KINDS:
                found[name][kind].append(_ask(processes[name], kind))
    for process in processes.values():
        process.stdin.close()
        process.wait()
    medians = {
        name: {kind: _median(asked[1:]) for kind, asked in kinds.items()}  # the first one also sets up
        for name, kinds in found.items()
    }
    _print(medians)
    return medians


def measured():
    """Names of the methods that find and segment objects, the baseline first."""
    rooms = {name: methods.method(name) for name in methods.names()}
    detectors = {room.detector for room in rooms.values()}
    names = [name for name, room in rooms.items() if room.task == TASK.name and name not in detectors - {BASELINE}]
    return sorted(names, key=lambda name: (name != BASELINE, name))


def forms():
    """What is measured: `measured`, a method with forms once for each, as `<method>:<form>`."""
    return [
        form for name in measured() for form in ([f"{name}:{of}" for of in FORMS[name]] if name in FORMS else [name])
    ]


def _server(name, given):
    command = [sys.executable, "-m", "benchmarks.methods_step", *given, "--serve", name]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def _ask(process, kind):
    """(milliseconds, megabytes) of one more of a kind."""
    print(kind, file=process.stdin, flush=True)
    if not (line := process.stdout.readline()):
        raise SystemExit(f"{' '.join(process.args)} ended with code {process.wait()}")
    return json.loads(line)


def _median(pairs):
    return tuple(statistics.median(values) for values in zip(*pairs, strict=True))


def _print(medians):
    print(f"{'method':<20}" + "".join(f"{f'{kind}, ms':>15}{'x':>7}{'MB':>9}{'x':>7}" for kind in KINDS))
    ratios = []
    for name, kinds in medians.items():
        line = f"{name:<20}"
        for kind, (milliseconds, megabytes) in kinds.items():
            base = medians[BASELINE][kind]
            times, memory = milliseconds / base[0], megabytes / base[1] if base[1] else float("nan")
            line += f"{milliseconds:>15.1f}{times:>7.2f}{megabytes:>9.1f}{memory:>7.2f}"
            ratios += [f"{name}_{kind}_time={times:.2f}", f"{name}_{kind}_memory={memory:.2f}"]
        print(line)
    print(*ratios)


def serve(args):
    """Answer every kind on standard input with milliseconds and megabytes, as JSON."""
    torch.set_num_threads(1)
    run = {"step": stepper, "inference": inferrer}
    run = {kind: make(build(args), args) for kind, make in run.items()}
    for line in sys.stdin:
        torch.manual_seed(0)
        print(json.dumps(measure(run[line.strip()], args.device)), flush=True)


def measure(run, device):
    """Milliseconds and megabytes above the start of one call."""
    if device == "cpu":
        ctypes.CDLL(None).malloc_trim(0)  # what the call before has left would be taken again, and not seen
        before, start = _reset_peak(), time.process_time()
        run()
        return 1e3 * (time.process_time() - start), _status("VmHWM") - before
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before, start = torch.cuda.memory_allocated(), time.perf_counter()
    run()
    torch.cuda.synchronize()
    return 1e3 * (time.perf_counter() - start), (torch.cuda.max_memory_allocated() - before) / 2**20


def build(args):
    """The model of a method at the scale of a profile, random weights, its score threshold 0."""
    name, _, form = args.serve.partition(":")
    profile, room = experiments.load().profiles[args.profile], methods.method(name)
    turned = FORMS[name][form] if form else {}
    knobs = room.load_knobs(room.pinned() | turned, args.serve, scale=profile.get("knobs"))
    methods.register(name, knobs)
    sizes = room.sizes(**profile["architecture"].get(room.detector, {}))
    classes = len(label_sets.label_set("coco").names)
    torch.manual_seed(0)
    model = build_detector(mmcv.ConfigDict(room.model(knobs, sizes, profile["backbones"][BACKBONE], classes)))
    for tested in _test_configurations(model):
        tested.score_thr = 0.0
    return model.to(args.device)


def _test_configurations(model):
    """What of a detector tells the score threshold, in two stages or one."""
    head = getattr(model, "roi_head", None)
    return [head.test_cfg] if head is not None and "score_thr" in head.test_cfg else [model.test_cfg]


def stepper(model, args):
    """A function that makes a step: forward, backward, update."""
    training = experiments.load().profiles[args.profile]["training"]
    optimisation = {key: training[key] for key in ("optimizer", "precision")}
    update, data = Update(model.train(), optimisation, 1), draw_batch(args)
    for part in Progress(model, 0, 1, 0).told:
        part.set_progress(0, EPOCH, 0, 0)

    def step():
        loss, _ = total(model(return_loss=True, **data))
        update.add(loss)
        update.apply()

    return step


@torch.no_grad()
def inferrer(model, args):
    """A function that detects and segments; masks come back in the size of the image, as in evaluation."""
    model.eval()
    images = draw_batch(args)["img"]
    shape = (args.height, args.width, 3)
    meta = {"img_shape": shape, "ori_shape": shape, "pad_shape": shape, "scale_factor": np.ones(4, np.float32)}
    folder = tempfile.TemporaryDirectory()  # GrabCut reads its images again
    metas = [meta | {"filename": f"{folder.name}/{number}.png"} for number in range(len(images))]
    for image, its in zip(images, metas, strict=True):
        mmcv.imwrite((image.permute(1, 2, 0) * 40 + 100).clamp(0, 255).byte().cpu().numpy(), its["filename"])

    def infer(_folder=folder):  # which is there as long as this function is
        with torch.no_grad():
            model.simple_test(images, [dict(its) for its in metas], rescale=True)

    return infer


if __name__ == "__main__":
    main()
