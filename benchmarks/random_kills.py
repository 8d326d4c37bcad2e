"""Kill a training at random moments, many times, and compare what it ends with to an uninterrupted one.

python -m benchmarks.random_kills [--kills 100]

Each case is a training of the embedded model on a few drawn images that gets SIGKILL at moments drawn from the case's
seed: between process start and end, inside an iteration, inside the writing of a state. A state is written after every
step, so a good part of the kills hits a write. Then the same call continues it, and is killed again with probability
1/2. A case passes if every state left behind is readable, the training ends, and its weights and its log are those of
the uninterrupted one, byte for byte. Trainings are forked from one process that has imported everything, because the
imports would take most of the time; the kill itself and everything after it are real.
"""

import argparse
import hashlib
import json
import os
import random
import signal
import sys
import tempfile
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path

import torch
from tqdm import tqdm

from pipeline.artifacts import paths
from pipeline.datasets.prepare import prepare
from pipeline.declaration import config, experiments, recipe, subsets
from pipeline.tasks.instances.split import split
from pipeline.training import loop

DATASET = "generated"
RUN = "contrastmask_r50_1x_nonvoc2voc"
PATIENCE = 600  # seconds for one attempt


def move_to(root):
    """Let all paths lead below a folder of their own."""
    (root / "pipeline").symlink_to(paths.ROOT / "pipeline")
    (root / "params.yaml").symlink_to(paths.ROOT / "params.yaml")
    paths.ROOT = root
    os.environ["CONTRASTMASK_HOME"] = str(root)


def draw_inputs():
    """Make a few drawn images, their split and random initial weights."""
    entry = experiments.load().dataset(DATASET) | {"train_images": 12, "val_images": 2}
    prepare(DATASET, entry, images_root=paths.images_root(DATASET), out_dir=paths.data(DATASET))
    split(
        subsets.train(DATASET).annotations,
        experiments.load().label_set(DATASET),
        "nonvoc2voc",
        paths.split(DATASET, "nonvoc2voc"),
    )
    paths.initial_weights(DATASET, "r50").parent.mkdir(parents=True)
    loop.save_atomically({"state_dict": {}}, paths.initial_weights(DATASET, "r50"))


def job(seed=0, interval=2, iterations=6, data=None, **optimisation):
    """A training of a few steps that saves its state every `interval` ones."""
    full = config.resolve(RUN, DATASET, seed)
    return replace(
        full,
        data=full.data | {"batch_size": 2, "images_per_gpu": 2} | (data or {}),
        schedule={"iterations": iterations, "milestones": []},
        optimisation=full.optimisation | {"log_interval": 1, "checkpoint_interval": interval} | optimisation,
    )


def attempt(work, kill_after=None):
    """Train in a process of its own, kill it after some seconds. Returns how it ended: 'killed', 'done' or 'failed'."""
    child = os.fork()
    if not child:
        output = os.open(paths.home() / "output.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(output, 1)
        os.dup2(output, 2)
        code = 1
        try:
            loop.train(work)
            code = 0
        finally:
            os._exit(code)
    began = time.monotonic()
    while time.monotonic() - began < PATIENCE:
        if kill_after is not None and time.monotonic() - began >= kill_after:
            os.kill(child, signal.SIGKILL)
            kill_after = None
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            return "killed" if os.WIFSIGNALED(status) else "failed" if os.WEXITSTATUS(status) else "done"
        time.sleep(0.002)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return "failed"


def outcome(scratch):
    """Digest of all weights, and of the log."""
    weights = torch.load(scratch / "checkpoint.pth", weights_only=True)["state_dict"]
    digest = hashlib.sha256()
    for name in sorted(weights):
        digest.update(name.encode() + weights[name].numpy().tobytes())
    return digest.hexdigest(), hashlib.sha256((scratch / "log.jsonl").read_bytes()).hexdigest()


def damaged_states(scratch):
    """States under their final name whose content is not what was written."""
    return [path.name for path in loop.states_of(scratch) if not path.stem.endswith(loop.digest(path.read_bytes()))]


def case(seed, work, scratch, seconds, expected, counts):
    """Kill and continue one training until it ends. Returns the number of kills, or raises AssertionError."""
    for leftover in scratch.glob("*"):
        leftover.unlink()
    drawn = random.Random(seed)
    kills = 0
    while True:
        again = kills == 0 or drawn.random() < 0.5
        ended = attempt(work, drawn.uniform(0, seconds) if again else None)
        counts[ended] += 1
        assert ended != "failed", f"seed {seed}: an attempt ended with an error, see {paths.home() / 'output.log'}"
        assert not damaged_states(scratch), f"seed {seed}: damaged states {damaged_states(scratch)}"
        if ended == "done":
            assert outcome(scratch) == expected, f"seed {seed}: other weights or another log after {kills} kills"
            return kills
        kills += 1
        counts["in a write"] += any(scratch.glob("*.part"))
        counts["states to continue from"] += bool(loop.states_of(scratch))


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=100, help="at least so many kills; seeds 0, 1, ... are used")
    parser.add_argument("--steps", type=int, default=8)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="kills") as folder:
        move_to(Path(folder))
        draw_inputs()
        work = job(interval=1, iterations=args.steps)
        scratch = paths.scratch(recipe.fingerprint(work))
        scratch.mkdir(parents=True)
        began = time.monotonic()
        assert attempt(work) == "done", (paths.home() / "output.log").read_text()
        seconds = time.monotonic() - began
        expected = outcome(scratch)
        print(f"uninterrupted: {seconds:.1f} s, weights {expected[0][:16]}", flush=True)
        kills, seed, failures, counts = 0, 0, [], Counter()
        with tqdm(total=args.kills, unit="kill", disable=not sys.stderr.isatty()) as bar:
            while kills < args.kills:
                try:
                    new = case(seed, work, scratch, seconds, expected, counts)
                except AssertionError as error:
                    failures.append(str(error))
                    print(error, flush=True)
                    new = 1
                kills += new
                seed += 1
                bar.update(new)
        print(f"{kills} kills in {seed} cases (seeds 0 to {seed - 1}), {time.monotonic() - began:.0f} s")
        print(json.dumps(counts))
        print(f"kills={kills} cases={seed} failed={len(failures)} kills_in_a_write={counts['in a write']}")
    sys.exit(bool(failures))


if __name__ == "__main__":
    main()
