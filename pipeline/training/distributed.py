"""One training in several processes: torch.distributed, started by torchrun, inside a Slurm job through srun.

How many processes share a training is a setting of the machine: CONTRASTMASK_NODES times CONTRASTMASK_PROCESSES (on
each node, one for each GPU), both 1 unless a launcher sets them. The images of an optimiser step stay the same.
"""

from pipeline import compat  # noqa: F401  # must precede mmcv

# isort: split

import contextlib
import functools
import logging
import os
import signal
import subprocess
import sys
import tempfile
import warnings
import zlib
from datetime import timedelta

import torch
from mmcv.parallel import scatter_kwargs
from torch import distributed as dist
from torch.nn.parallel import DistributedDataParallel

from pipeline.artifacts import locks, paths
from pipeline.errors import ExperimentError, Interrupted, one_line
from pipeline.processes import handling, tie_to_parent

logger = logging.getLogger("pipeline.training.distributed")

# Newer than the torch of some CUDA builds, and about a distinction that makes no difference here.
warnings.filterwarnings("ignore", message="`broadcast_buffers` is deprecated", category=FutureWarning)

JOB = "job.json"  # what to train, for the processes of this very run
MEETING = "CONTRASTMASK_MEETING"  # file through which the processes of one machine find each other
FAILED = "failed"  # the error line of a process, one file for each
STOPPED = "stopped"  # the same, of a process that SIGTERM asked to end
CRASHED = "crashed"  # of a process that ended with a traceback; torchrun then sends SIGTERM to the others
PATIENCE = timedelta(minutes=30)  # of a collective operation; the first one waits for the slowest process to start


def processes():
    """(nodes, processes on each) that one training takes. Raises ExperimentError for a bad value."""
    return _count("CONTRASTMASK_NODES"), _count("CONTRASTMASK_PROCESSES")


def _count(variable):
    value = os.environ.get(variable) or "1"
    if not value.isdigit() or int(value) < 1:
        raise ExperimentError(f"{variable} is {value!r}; valid: an integer, at least 1")
    return int(value)


def rank():
    return dist.get_rank() if dist.is_initialized() else 0


def world_size():
    return dist.get_world_size() if dist.is_initialized() else 1


def train_in_processes(training, scratch):
    """Run `pipeline.training.training_process` in every process of a training and wait for its end.

    Args:
        training: pipeline.declaration.config.Training.
        scratch: its folder, on a file system that all nodes share.

    Raises:
        ExperimentError: a process failed; says why if that is known.
        Interrupted: this process, or one of the training, was asked to end by a signal.
    """
    nodes, each = processes()
    for kind in (FAILED, STOPPED, CRASHED):
        for old in scratch.glob(f"{kind}.*"):
            old.unlink()
    (scratch / JOB).write_text(training.to_json())
    quiet = {"TORCH_CPP_LOG_LEVEL": "ERROR"}  # DistributedDataParallel warns that this time all parameters were used
    with tempfile.TemporaryDirectory(prefix="contrastmask-") as meeting:
        command = _torchrun(nodes, each, meeting) + ["-m", "pipeline.training.training_process", str(scratch)]
        here = among_themselves(meeting) if nodes == 1 else {}
        child = subprocess.Popen(
            command, cwd=paths.ROOT, env=quiet | here | os.environ, start_new_session=True, preexec_fn=tie_to_parent
        )
        with _ending_together(child) as told:
            code = child.wait()
    if code:
        failed, stopped, crashed = (
            [path.read_text().strip() for path in sorted(scratch.glob(f"{kind}.*"))]
            for kind in (FAILED, STOPPED, CRASHED)
        )
        if failed:
            raise ExperimentError(failed[0])
        if told or stopped and not crashed:
            by = signal.Signals(told[0] if told else signal.SIGTERM)
            words = (*stopped, "stopped by SIGTERM; run again to continue from the last state")[0]
            raise Interrupted(words.replace("SIGTERM", by.name, 1), by)  # what torchrun passes on is always SIGTERM
        raise ExperimentError(
            f"{training.name}: a process of {nodes} x {each} ended with code {code}, see above; "
            f"state is kept in {scratch}"
        )


@contextlib.contextmanager
def _ending_together(child):
    """Pass a signal that asks to end on to a child that has a session of its own; yields a list that will name it.

    Once only: a second signal makes torchrun leave before its processes have saved their state.
    """
    told = []

    def tell(number, _):
        if not told:
            told.append(number)
            child.terminate()

    with handling(tell):
        yield told


def among_themselves(meeting):
    """Environment of processes on one machine: they meet through a file and talk through the loopback interface.

    torch's own rendezvous listens on every interface of the machine, without asking who connects.
    """
    return {
        MEETING: f"{meeting}/workers",
        "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1",
        "GLOO_SOCKET_IFNAME": "lo",
        "NCCL_SOCKET_IFNAME": "lo",
    }


def _torchrun(nodes, each, meeting):
    command = [sys.executable, "-m", "torch.distributed.run", "--nnodes", str(nodes), "--nproc-per-node", str(each)]
    if nodes == 1:
        return [
            *command,
            "--rdzv-backend",
            "c10d",
            "--rdzv-conf",
            "store_type=file",
            "--rdzv-endpoint",
            f"{meeting}/agent",
            "--rdzv-id",
            "one-machine",
            "--local-addr",
            "127.0.0.1",
        ]
    job = os.environ.get("SLURM_JOB_ID")
    if not job:
        raise ExperimentError(
            f"CONTRASTMASK_NODES is {nodes}, but this is no Slurm job; set `launcher: slurm` in machine.yaml"
        )
    # Of the job's own, or the processes of two jobs that share a node would meet.
    port = 20000 + zlib.crc32(job.encode()) % 20000
    host = os.environ.get("SLURMD_NODEADDR") or os.uname().nodename
    srun = ["srun", "--nodes", str(nodes), "--ntasks", str(nodes), "--ntasks-per-node", "1", "--kill-on-bad-exit=1"]
    rendezvous = ["--rdzv-backend", "c10d", "--rdzv-endpoint", f"{host}:{port}", "--rdzv-id", f"{job}"]
    return [*srun, *command, *rendezvous]


@contextlib.contextmanager
def member(scratch):
    """Be one process of a training: join the others, leave an error line for whoever waits, end together.

    Processes of an earlier attempt that still run, because what started them was killed, are waited for.
    """
    number = int(os.environ["RANK"])
    try:
        with exclusive(scratch / "workers.lock", scratch.name) if number == 0 else contextlib.nullcontext():
            if torch.cuda.is_available():
                torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
            backend = "nccl" if torch.cuda.is_available() else "gloo"
            file, world = os.environ.get(MEETING), int(os.environ["WORLD_SIZE"])
            where = {"init_method": f"file://{file}", "rank": number, "world_size": world} if file else {}
            dist.init_process_group(backend, timeout=PATIENCE, **where)
            yield
            barrier()
            dist.destroy_process_group()
    except Exception as error:
        kind = STOPPED if isinstance(error, Interrupted) else FAILED if isinstance(error, ExperimentError) else CRASHED
        (scratch / f"{kind}.{number}").write_text(f"{one_line(error)}\n")
        raise


def exclusive(path, name):
    """Hold a lock file, waiting with a message for another process that has it. Returns a context manager."""
    return locks.hold(path, f"training {name}")


def agree(value):
    """The first process's value, in every process."""
    values = [value]
    if world_size() > 1:
        dist.broadcast_object_list(values, src=0)
    return values[0]


def gather(value):
    """The values of all processes in order of rank, in every process."""
    if world_size() == 1:
        return [value]
    values = [None] * world_size()
    dist.all_gather_object(values, value)
    return values


def any_of(value):
    """Whether a value is true in any process, in every process."""
    if world_size() == 1:
        return value
    found = torch.tensor(int(value))
    dist.all_reduce(found, dist.ReduceOp.MAX, group=_control_group())
    return bool(found)


def barrier():
    """Wait for all processes."""
    if world_size() > 1:
        dist.barrier(group=_control_group())


@functools.cache
def _control_group():
    """A group for what processes tell each other between steps: through the CPU, so that it waits for no GPU."""
    return dist.new_group(backend="gloo", timeout=PATIENCE)


class DataParallel(DistributedDataParallel):
    """torch's DistributedDataParallel with the `train_step` that mmcv's runners call.

    mmcv's own subclass reaches into internals that torch has changed since.
    """

    def __init__(self, model):
        device = next(model.parameters()).device
        self.targets = [device.index] if device.type == "cuda" else [-1]
        # Images without positive RoIs may leave parts of the heads without gradients in one process alone.
        super().__init__(
            model,
            device_ids=self.targets if device.type == "cuda" else None,
            broadcast_buffers=False,
            find_unused_parameters=True,
        )

    def train_step(self, data, optimizer):
        """As mmdet's BaseDetector.train_step: {loss, log_vars, num_samples}."""
        _, (batch,) = scatter_kwargs((), data, self.targets)
        loss, log_vars = self.module._parse_losses(self(**batch))
        return {"loss": loss, "log_vars": log_vars, "num_samples": len(batch["img_metas"])}


def divide(batch_size, images_per_gpu):
    """Share the images of an optimiser step among processes: (images per process and iteration, iterations per step).

    Raises ExperimentError if they cannot be shared equally.
    """
    nodes, each = processes()
    world = nodes * each
    images = min(images_per_gpu, max(batch_size // world, 1))
    accumulate, rest = divmod(batch_size, images * world)
    if rest:
        raise ExperimentError(
            f"batch_size {batch_size} is not a multiple of {images} images in each of {world} processes "
            "(pipeline/experiments/contrastmask.yaml, profiles.<profile>.training: batch_size, images_per_gpu)"
        )
    return images, accumulate


@functools.cache
def exchange_group():
    """A group of all processes beside the one that DistributedDataParallel reduces gradients in.

    Every process must ask for it at the same point of its program.
    """
    return dist.new_group(timeout=PATIENCE)
