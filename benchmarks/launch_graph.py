"""python -m benchmarks.launch_graph: how long a launch of the chosen tables takes, with stages that only wait.

Each stage lasts as long as it would on a quiet core (`SECONDS`, in a twentieth of the time), so the figure is the order
that `commands.launch` makes and nothing of the machine. `--tree` asks the code of another working copy too.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections import defaultdict

SCALE = 0.05  # of the real time
SECONDS = {  # of one stage of the embedded profile; a training's are of a step-like unit, times `cost` and length
    "recipes": 3,
    "download": 20,
    "split": 4,
    "pretrain": 300,
    "train": 120,
    "evaluate": 25,
    "look_inside": 10,
    "headline": 3,
    "tables": 3,
    "figures": 5,
    "report": 5,
}
DVC_SECONDS = 3  # to start
FACTORS = {"contrastmask": 2.1, "3x": 2.0}  # of a training's time
FOUND_SECONDS = 4  # to find a training that is done


class Pretended:
    """Stands in for `dvc repro`.

    Attributes:
        core_seconds: that all stages took together.
    """

    def __init__(self, selection):
        self.selection, self.core_seconds = selection, 0.0
        self._lock, self._same = threading.Lock(), defaultdict(threading.Lock)
        self._trained = set()

    def __call__(self, *stages, **_):
        self._take(DVC_SECONDS)
        for stage in stages:
            group, _, key = stage.partition("@")
            for name in [key] if key else list(self.selection.get(_PLURAL.get(group, group)) or [""]):
                self._make(group, name)
        return 0

    def _make(self, group, name):
        if group != "train":
            self._take(SECONDS[group])
            return
        row = self.selection["runs"][name]
        twin = "contrastmask_r50_1x_nonvoc2voc" if name == "current" else name
        with self._same[twin]:  # the lock of its scratch folder
            if twin in self._trained:
                self._take(FOUND_SECONDS)
                return
            self._take(SECONDS["train"] * FACTORS.get(row["method"], 1) * FACTORS.get(row["schedule"], 1))
            self._trained.add(twin)

    def _take(self, seconds):
        time.sleep(seconds * SCALE)
        with self._lock:
            self.core_seconds += seconds


_PLURAL = {"split": "directions"}


def pretended(tables, jobs):
    """Launch in this process. Returns seconds of the launch and of all its stages."""
    from pipeline.declaration import experiments
    from pipeline.launching import launch, launchers
    from pipeline.launching.launchers import local

    selection = experiments.load().selection(tables, experiments.chosen_dataset())
    dvc = Pretended(selection)
    experiments.selected = lambda *_: selection
    launchers.dvc = dvc
    launchers.changed_stages = lambda: {"download", "train@current"}
    local.Local.REFRESH_SECONDS *= SCALE
    os.sched_setaffinity(0, set(sorted(os.sched_getaffinity(0))[:jobs]))
    began = time.monotonic()
    launch.launch(jobs)
    return (time.monotonic() - began) / SCALE, dvc.core_seconds


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("tables", nargs="*", default=["table2"])
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--tree", help="another working copy, of an older commit")
    parser.add_argument("--here", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.here:
        print(*pretended(args.tables, args.jobs))
        return
    trees = {"this working copy": os.getcwd()} | ({args.tree: args.tree} if args.tree else {})
    print(f"{', '.join(args.tables)}; {args.jobs} at a time; pretended seconds")
    for name, tree in trees.items():
        with tempfile.TemporaryDirectory() as home:
            environment = os.environ | {"PYTHONPATH": tree, "CONTRASTMASK_HOME": home}
            line = [sys.executable, "-P", __file__, *args.tables, "--jobs", str(args.jobs), "--here"]
            answer = subprocess.run(line, cwd=tree, env=environment, check=True, stdout=subprocess.PIPE, text=True)
        wall, core = map(float, answer.stdout.split()[-2:])
        print(f"{name:<40} launch {wall:6.0f}   all stages {core:6.0f}   cores busy {core / wall / args.jobs:4.0%}")


if __name__ == "__main__":
    main()
