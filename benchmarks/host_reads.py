"""python -m benchmarks.host_reads: operations of a training step that make the host wait for a GPU, counted on a CPU.

A GPU works through a queue. Whenever Python needs a value, or a shape that depends on values, the host waits until the
queue is empty, and the GPU then waits for the host. Counted are reads of numbers, selections by a mask (their size is a
value) and copies to the host; on a CPU they run like any other operation, and a dispatch mode sees them. The step is
one of the embedded profile on drawn images with random weights; `--top` names the lines that ask most often.
"""

import argparse
import collections
import functools
import tempfile
import traceback
from pathlib import Path
from unittest import mock

from pipeline import compat  # noqa: F401  # must precede mmcv

# isort: split

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from benchmarks.random_kills import move_to
from pipeline import methods
from pipeline.acceptance.job import DATASET, draw_inputs
from pipeline.declaration import config, experiments
from pipeline.methods.shared import partial_roi_head
from pipeline.training.computation import Computation
from pipeline.training.journal import Journal

METHODS = ("mask_rcnn", "cam", "contrastmask", "two_stage")
PHASES = ("forward", "backward", "after")

aten = torch.ops.aten
# What gives the host a number, or a tensor whose size is one.
WAITING = {
    aten._local_scalar_dense,
    aten.bincount,
    aten.equal,
    aten.masked_select,
    aten.nonzero,
    aten._unique,
    aten._unique2,
    aten.unique_consecutive,
    aten.unique_dim,
}
BY_MASK = {aten.index, aten.index_put, aten.index_put_, aten._index_put_impl_}
TO_HOST = {torch.Tensor.cpu, torch.Tensor.numpy, torch.Tensor.tolist, torch.Tensor.__array__}
NOT_OURS = ("/torch/", "contextlib.py", __file__)


class HostReads(TorchDispatchMode):
    """Count, while active, what would make the host wait for a GPU.

    Attributes:
        phase: word for what runs now, set by whoever counts.
        found: {(phase, operation, place): times}; a place is the file, the line and the function that asked.
    """

    def __init__(self):
        super().__init__()
        self.phase, self.found = PHASES[0], collections.Counter()
        self._copies = _Copies(self._note)

    def __enter__(self):
        self._copies.__enter__()
        return super().__enter__()

    def __exit__(self, *error):
        super().__exit__(*error)
        self._copies.__exit__(*error)

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        operation = func.overloadpacket
        if operation in WAITING:
            self._note(operation.__name__)
        elif operation in BY_MASK and any(t is not None and t.dtype in (torch.bool, torch.uint8) for t in args[1]):
            self._note(f"{operation.__name__} by a mask")
        elif func is aten.repeat_interleave.Tensor and kwargs.get("output_size") is None:
            self._note("repeat_interleave")
        return func(*args, **kwargs)

    def _note(self, operation):
        self.found[self.phase, operation, _place()] += 1

    def count(self, *phases):
        """Reads of some phases, or of all but the optimiser's."""
        return sum(times for (phase, _, _), times in self.found.items() if phase in (phases or PHASES))


class _Copies(TorchFunctionMode):
    """Copies to the host, which on a CPU are no operations. Of several in a row the first counts."""

    def __init__(self, note):
        super().__init__()
        self._note, self._copied = note, set()

    def __torch_function__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        if func in TO_HOST:
            if id(args[0]) not in self._copied:
                self._note(func.__name__)
            self._copied = {id(result)} if func is torch.Tensor.cpu else set()
        return result


def _place():
    """The innermost line that is not torch's: 'file:line function'."""
    for frame in reversed(traceback.extract_stack(limit=40)[:-3]):
        if not any(part in frame.filename for part in NOT_OURS):
            return f"{'/'.join(Path(frame.filename).parts[-2:])}:{frame.lineno} {frame.name}"
    return "?"


def step_of(computation, journal=None):
    """Make one step of a training and log it. Returns `HostReads` with phases forward, backward and after."""
    batches = iter(computation._loader(0, workers=1))
    batch = next(batches)  # loading is the data workers' business
    computation.model.train()
    reads = HostReads()
    add = computation.update.add

    def in_phases(loss):
        reads.phase = "backward"
        add(loss)
        reads.phase = "after"

    computation.update.add = in_phases
    apply = computation.update.apply
    computation.update.apply = functools.partial(_unseen, reads, apply)
    # On a GPU no RoI is left out, because finding those that are not needed would be such a read.
    with reads, mock.patch.object(partial_roi_head, "needed", lambda chosen: partial_roi_head.EVERY):
        step = computation._step(0, iter([batch]))
        if journal:
            journal.add(step)
    return reads


def _unseen(reads, function):
    """Call what is torch's own: optimisers keep their counters on the host."""
    phase, reads.phase = reads.phase, "optimiser"
    try:
        return function()
    finally:
        reads.phase = phase


def training_of(method, images, **optimisation):
    """A training of the embedded profile with steps of some images at a time."""
    if method == "two_stage":
        training = config.resolve_pretraining("r50", DATASET)
    else:
        training = config.resolve(f"{method}_r50_1x_nonvoc2voc", DATASET, 0)
    training.data.update(batch_size=images, images_per_gpu=images)
    training.optimisation.update(optimisation)
    return training


def computation_of(training):
    """Its `Computation` on the CPU, from random weights."""
    methods.register(training.method, training.knobs)
    return Computation(
        training,
        training_set=functools.partial(methods.task_of(training.method).training_set, training),
        autocast=methods.method(training.method).autocast,
        starts_from=None,
        device="cpu",
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=8, help="of a step, at most 12")
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=METHODS)
    parser.add_argument("--top", type=int, default=0, help="lines to name for each method")
    args = parser.parse_args()
    torch.set_num_threads(1)
    print(f"torch {torch.__version__}, {args.images} images, reads of one step")
    print(f"{'method':<14}" + "".join(f"{phase:>10}" for phase in PHASES) + f"{'modules':>10}")
    with tempfile.TemporaryDirectory(prefix="reads") as folder:
        move_to(Path(folder))
        draw_inputs(experiments.load())
        for method in args.methods:
            training = training_of(method, args.images, log_interval=1)
            scratch = Path(folder) / method
            scratch.mkdir()
            computation = computation_of(training)
            reads = step_of(computation, Journal(training, scratch, computation.steps))
            asking = {place.split(":")[0] for phase, _, place in reads.found if phase in PHASES}
            print(f"{method:<14}" + "".join(f"{reads.count(phase):>10}" for phase in PHASES) + f"{len(asking):>10}")
            seen = [(key, times) for key, times in reads.found.most_common() if key[0] in PHASES]
            for (phase, operation, place), times in seen[: args.top]:
                print(f"  {times:>4} {phase:<9} {operation:<22} {place}")


if __name__ == "__main__":
    main()
