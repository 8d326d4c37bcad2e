"""Kill a stage at random moments, many times, and compare what it ends with to one left alone.

python -m benchmarks.random_kills [--kills 100] [--run RUN] [--stage train | label | evaluate]

Each case is a training of an embedded model on a few drawn images, or the labels that it gives them, or its prediction
and scores, that gets SIGKILL at moments drawn from the case's seed: between process start and end, inside an iteration,
inside the writing of a state or of a prediction. A state is written after every step, so a good part of the kills hits
a write. Then the same call continues it, and is killed again with probability 1/2. A case passes if every state left
behind is readable, the stage ends, and what it writes is that of the uninterrupted one, byte for byte: weights and log,
labels, or predictions and scores. A run that trains on the labels of another one has them beforehand. Stages are forked
from one process that has imported everything, because the imports would take most of the time; the kill itself and
everything after it are real.
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
from dataclasses import dataclass
from pathlib import Path

import torch
from tqdm import tqdm

from pipeline import methods
from pipeline.artifacts import files, paths
from pipeline.datasets.label_maps.packs import Pack
from pipeline.declaration import experiments, recipe
from pipeline.errors import ExperimentError
from pipeline.training import loop, states
from tests import tiny

PATIENCE = 600  # seconds for one attempt


@dataclass(frozen=True)
class Training:
    """What is killed: a training."""

    job: object

    @property
    def scratch(self):
        return paths.scratch(recipe.fingerprint(self.job))

    def prepare(self):
        """Make what the stage starts from: labels, where the run trains on those of another one."""
        if self.job.labels:
            source = Labelling(tiny.job(name=self.job.labels))
            source.prepare()
            source.run()
        self.scratch.mkdir(parents=True)

    def forget(self):
        """Remove all that an earlier case left."""
        for leftover in self.scratch.glob("*"):
            leftover.unlink()

    def run(self):
        loop.train(self.job)

    def outcome(self):
        """Digest of all weights, and of the log."""
        weights = torch.load(self.scratch / "checkpoint.pth", weights_only=True)["state_dict"]
        digest = hashlib.sha256()
        for name in sorted(weights):
            digest.update(name.encode() + weights[name].numpy().tobytes())
        return digest.hexdigest(), hashlib.sha256((self.scratch / "log.jsonl").read_bytes()).hexdigest()

    def damaged(self):
        """States under their final name whose content is not what was written."""
        kept = states.of(self.scratch)
        return [path.name for path in kept if not path.stem.endswith(states.digest(path.read_bytes()))]

    def goes_on(self):
        """Whether there is something to continue from."""
        return bool(states.of(self.scratch))


@dataclass(frozen=True)
class Evaluation(Training):
    """What is killed: prediction and scores of a training that has ended."""

    def prepare(self):
        super().prepare()
        loop.publish(loop.train(self.job), self.job.dataset, self.job.name, self.job.seed)

    @property
    def written(self):
        """Predictions, and their scores."""
        predictions = paths.predictions(self.job.dataset, self.job.name, self.job.seed)
        return predictions, predictions.with_name("scores.json")

    @property
    def saved(self):
        return paths.saved_predictions(recipe.fingerprint(self.job))

    def forget(self):
        for path in (*self.written, self.saved):
            path.unlink(missing_ok=True)

    def run(self):
        run, labels = experiments.load().run(self.job.name), experiments.load().label_set(self.job.dataset)
        task, (predictions, scores) = methods.task_of(run.method), self.written
        methods.register(self.job.method, self.job.knobs)
        task.predict(self.job, predictions)
        groups = task.named(*labels.base_and_novel(run.direction))
        files.write_json(scores, task.score(self.job.dataset, predictions, groups))

    def outcome(self):
        return tuple(hashlib.sha256(path.read_bytes()).hexdigest() for path in self.written)

    def damaged(self):
        """Files under their final name that are cut short."""
        return [path.name for path in self.written if path.exists() and not _whole(path)]

    def goes_on(self):
        return self.saved.exists()


@dataclass(frozen=True)
class Labelling(Evaluation):
    """What is killed: what a training that has ended says of the training images."""

    @property
    def written(self):
        """The maps, and their index, which is there only when all maps are."""
        index = paths.label_index(self.job.dataset, self.job.name, self.job.seed)
        return index.with_suffix(".pack"), index

    @property
    def saved(self):
        return paths.saved_predictions(paths.labelling_key(recipe.fingerprint(self.job)))

    def run(self):
        methods.register(self.job.method, self.job.knobs)
        methods.task_of(self.job.method).label(self.job, self.written[1])

    def damaged(self):
        """An index of maps that are not those of it."""
        _, index = self.written
        return [index.name] if index.exists() and not _maps_of(index) else []


STAGES = {"train": Training, "label": Labelling, "evaluate": Evaluation}


def _whole(path):
    try:
        return json.loads(path.read_bytes()) is not None
    except ValueError:
        return False


def _maps_of(index):
    try:
        return hashlib.sha256(index.with_suffix(".pack").read_bytes()).hexdigest() == Pack(index).facts["sha256"]
    except (OSError, ExperimentError):
        return False


def move_to(root):
    """Let all paths lead below a folder of their own."""
    (root / "pipeline").symlink_to(paths.ROOT / "pipeline")
    (root / "params.yaml").symlink_to(paths.ROOT / "params.yaml")
    paths.ROOT = root
    os.environ["CONTRASTMASK_HOME"] = str(root)


def attempt(stage, kill_after=None):
    """Run a stage in a process of its own, kill it after some seconds. Returns 'killed', 'done' or 'failed'."""
    child = os.fork()
    if not child:
        output = os.open(paths.home() / "output.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(output, 1)
        os.dup2(output, 2)
        code = 1
        try:
            stage.run()
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


def case(seed, stage, seconds, expected, counts):
    """Kill and continue one stage until it ends. Returns the number of kills, or raises AssertionError."""
    stage.forget()
    drawn = random.Random(seed)
    kills = 0
    while True:
        again = kills == 0 or drawn.random() < 0.5
        ended = attempt(stage, drawn.uniform(0, seconds) if again else None)
        counts[ended] += 1
        assert ended != "failed", f"seed {seed}: an attempt ended with an error, see {paths.home() / 'output.log'}"
        assert not stage.damaged(), f"seed {seed}: damaged files {stage.damaged()}"
        if ended == "done":
            assert stage.outcome() == expected, f"seed {seed}: another outcome after {kills} kills"
            return kills
        kills += 1
        counts["in a write"] += any(paths.home().rglob("*.part"))
        counts["states to continue from"] += stage.goes_on()


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=100, help="at least so many kills; seeds 0, 1, ... are used")
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--images", type=int, default=12, help="images that an evaluation predicts")
    parser.add_argument("--run", default=tiny.RUN, help="a declared run; drawn images of its kind are made for it")
    parser.add_argument("--stage", choices=STAGES, default="train")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="kills") as folder:
        move_to(Path(folder))
        tiny.draw_inputs(args.run, args.images if args.stage == "evaluate" else 2)
        stage = STAGES[args.stage](tiny.job(interval=1, iterations=args.steps, name=args.run))
        stage.prepare()
        began = time.monotonic()
        assert attempt(stage) == "done", (paths.home() / "output.log").read_text()
        seconds = time.monotonic() - began
        expected = stage.outcome()
        print(f"uninterrupted: {seconds:.1f} s, outcome {expected[0][:16]}", flush=True)
        kills, seed, failures, counts = 0, 0, [], Counter()
        with tqdm(total=args.kills, unit="kill", disable=not sys.stderr.isatty()) as bar:
            while kills < args.kills:
                try:
                    new = case(seed, stage, seconds, expected, counts)
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
