"""What some processes find that know each other, as those of a training on several GPUs do."""

import gc
import tempfile
from pathlib import Path

import torch
import torch.distributed as dist
from torch import multiprocessing

PATIENCE = 120  # seconds


def joined(work, processes, *arguments):
    """What `work(rank, *arguments)` returns in each of several processes, tensors or plain data.

    Forks: a fresh process takes seconds to load torch.
    """
    context = multiprocessing.get_context("fork")
    with tempfile.TemporaryDirectory() as folder:
        started = [
            context.Process(target=_process, args=(work, rank, processes, Path(folder), arguments))
            for rank in range(processes)
        ]
        for process in started:
            process.start()
        for process in started:
            process.join(PATIENCE)
        ended = [process.exitcode for process in started]
        for process in started:
            process.kill()
        assert ended == [0] * processes, "None: it waited for the others"
        return [torch.load(Path(folder) / f"{rank}.pth", weights_only=True) for rank in range(processes)]


def _process(work, rank, processes, folder, arguments):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=processes)
    torch.save(work(rank, *arguments), folder / f"{rank}.pth")
    gc.collect()  # a DistributedDataParallel that outlives its group can wait for ever
    dist.barrier()
    dist.destroy_process_group()
