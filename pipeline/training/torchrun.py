"""One training in several processes: started by torchrun, inside a Slurm job through srun.

How many processes share a training is a setting of the machine: CONTRASTMASK_NODES times CONTRASTMASK_PROCESSES (on
each node, one for each GPU), both 1 unless a launcher sets them. The images of an optimiser step stay the same.
"""

import contextlib
import gc
import logging
import os
import signal
import subprocess
import sys
import tempfile
import zlib

import torch
from torch import distributed as dist

from pipeline.artifacts import locks, paths
from pipeline.errors import ExperimentError, Interrupted, one_line
from pipeline.processes import handling, tie_to_parent
from pipeline.training import collectives

logger = logging.getLogger("pipeline.training.torchrun")

JOB = "job.json"  # what to train, for the processes of this very run
MEETING = "CONTRASTMASK_MEETING"  # file through which the processes of one machine find each other
FAILED = "failed"  # the error line of a process, one file for each
STOPPED = "stopped"  # the same, of a process that SIGTERM asked to end
CRASHED = "crashed"  # of a process that ended with a traceback; torchrun then sends SIGTERM to the others


def processes():
    """(nodes, processes on each) that one training takes. Raises ExperimentError for a bad value."""
    return _count("CONTRASTMASK_NODES"), _count("CONTRASTMASK_PROCESSES")


def _count(variable):
    value = os.environ.get(variable) or "1"
    if not value.isdigit() or int(value) < 1:
        raise ExperimentError(f"{variable} is {value!r}; valid: an integer, at least 1")
    return int(value)


def train(training, scratch):
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
        started = [*command(nodes, each, meeting), "-m", "pipeline.training.training_process", str(scratch)]
        here = among_themselves(meeting) if nodes == 1 else {}
        child = subprocess.Popen(
            started, cwd=paths.ROOT, env=quiet | here | os.environ, start_new_session=True, preexec_fn=tie_to_parent
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


def command(nodes, each, meeting):
    """torchrun, and srun before it on several nodes, without what it is to run.

    Args:
        nodes, each: as of `processes`.
        meeting: empty folder of this machine, for one node.
    """
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nnodes", str(nodes), "--nproc-per-node", str(each)]
    if nodes == 1:
        rendezvous = {"backend": "c10d", "conf": "store_type=file", "endpoint": f"{meeting}/agent", "id": "one-machine"}
        return [*torchrun, *_options(rendezvous), "--local-addr", "127.0.0.1"]
    job = os.environ.get("SLURM_JOB_ID")
    if not job:
        raise ExperimentError(
            f"CONTRASTMASK_NODES is {nodes}, but this is no Slurm job; set `launcher: slurm` in machine.yaml"
        )
    # Of the job's own, or the processes of two jobs that share a node would meet.
    port = 20000 + zlib.crc32(job.encode()) % 20000
    host = os.environ.get("SLURMD_NODEADDR") or os.uname().nodename
    srun = ["srun", "--nodes", str(nodes), "--ntasks", str(nodes), "--ntasks-per-node", "1", "--kill-on-bad-exit=1"]
    return [*srun, *torchrun, *_options({"backend": "c10d", "endpoint": f"{host}:{port}", "id": job})]


def _options(rendezvous):
    return [word for name, value in rendezvous.items() for word in (f"--rdzv-{name}", value)]


@contextlib.contextmanager
def member(scratch):
    """Be one process of a training: join the others, leave an error line for whoever waits, end together.

    Processes of an earlier attempt that still run, because what started them was killed, are waited for.
    """
    number = int(os.environ["RANK"])
    try:
        with (
            locks.hold(scratch / "workers.lock", f"training {scratch.name}")
            if number == 0
            else contextlib.nullcontext()
        ):
            if torch.cuda.is_available():
                torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
            backend = "nccl" if torch.cuda.is_available() else "gloo"
            file, world = os.environ.get(MEETING), int(os.environ["WORLD_SIZE"])
            where = {"init_method": f"file://{file}", "rank": number, "world_size": world} if file else {}
            dist.init_process_group(backend, timeout=collectives.PATIENCE, **where)
            yield
            gc.collect()  # with gloo, a DistributedDataParallel that outlives its group may wait for ever
            collectives.barrier()
            dist.destroy_process_group()
    except Exception as error:
        kind = STOPPED if isinstance(error, Interrupted) else FAILED if isinstance(error, ExperimentError) else CRASHED
        (scratch / f"{kind}.{number}").write_text(f"{one_line(error)}\n")
        raise
