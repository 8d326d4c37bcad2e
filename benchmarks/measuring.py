"""What the measurements share: peak memory of a process, alone or with its children, and growth with size."""

import re
import subprocess
import time
from pathlib import Path

import numpy as np

REST = 4  # times what a look at the memory takes, between two looks: at most a fifth of a core


def peak_mb():
    """Peak resident memory of this process in MB; getrusage would count the parent's pages from before exec."""
    return int(re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())[1]) * 1024 / 1e6


def watched(command):
    """Run a command; gives its last line of output and the peak memory of the process tree in MB.

    Memory, sampled: pages of their own, one that n of the processes share as 1/n in each, and of pages that files back,
    those of the process with most of them. Libraries are shared with whatever else runs, so that a proportional part of
    those would grow when something else ends.
    """
    peak = 0
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        while process.poll() is None:
            start = time.perf_counter()
            own, backed = zip(*map(_bytes, _tree(process.pid)), strict=True)
            peak = max(peak, sum(own) + max(backed))
            time.sleep(REST * (time.perf_counter() - start) + 0.02)
        output = process.stdout.read()
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, command)
    return output.splitlines()[-1], peak / 1e6


def _tree(process):
    """Ids of a process and of all below it."""
    yield process
    for file in Path(f"/proc/{process}/task").glob("*/children"):
        try:
            children = file.read_text().split()
        except OSError:  # it ended
            continue
        for child in children:
            yield from _tree(child)


def _bytes(process):
    """Of a process: (bytes of its own, its part of shared ones; bytes that files back). Zeros of one that has ended."""
    try:
        lines = Path(f"/proc/{process}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0, 0
    found = {line.partition(":")[0]: int(line.split()[1]) * 1024 for line in lines if line.endswith(" kB")}
    return found.get("Pss_Anon", 0), found.get("Rss", 0) - found.get("Anonymous", 0)


def exponent(sizes, values):
    """Power of the size that a quantity grows with: slope of a straight line through the logarithms."""
    return float(np.polyfit(np.log(sizes), np.log(values), 1)[0])
