"""python -m benchmarks.tables_cost [TABLE...] [--against COMMIT]: core-minutes of the trainings behind tables.

A table's runs are of a few kinds: trainings of one method and backbone whose models have the same parameters cost the
same. A process measures steps, loading and prediction of each kind of the chosen tables on drawn images, with the
code, the profile and the tables of this commit's working copy; another does so with those of COMMIT, in turn. Times
are processor time, medians, on one thread. Each is multiplied by what is declared: steps, images, seeds, initial
weights. Not in it: drawing, a classifier before the initial weights, and what a stage and its DVC need to start.

RoIs are as many as in a training because every kind starts from a detector trained for `--warm` steps. Its weights
predict more boxes than trained ones do, or fewer, so the share of prediction is a rough one.
"""

import argparse
import contextlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

TRAINING_IMAGES, VALIDATION_IMAGES = 40, 8  # drawn for the measurement
BATCHES = 4


class Worker:
    """A process with the code of a working copy, which answers one question a line.

    Args:
        tree: folder of the working copy.
        folder: empty, for what it draws and trains.
    """

    def __init__(self, tree, folder):
        self._process = subprocess.Popen(
            [sys.executable, "-P", __file__, "--serve", str(folder)],
            cwd=tree,
            env=os.environ | {"PYTHONPATH": str(tree), "OMP_NUM_THREADS": "1", "CONTRASTMASK_WORKERS": "1"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def ask(self, *question):
        """The answer to a question. Raises SystemExit if the process has ended."""
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.write(json.dumps(question) + "\n")
            self._process.stdin.flush()
        if not (line := self._process.stdout.readline()):
            raise SystemExit(f"a process that measures ended with status {self._process.wait()}, see above")
        return json.loads(line)

    def end(self):
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()
        self._process.wait()


class Measured:
    """What a worker answers with: the trainings behind tables and their processor time, in its own code's terms."""

    def __init__(self, folder):
        from pipeline import compat  # noqa: F401  # must precede mmcv

        # isort: split

        import torch

        from pipeline.artifacts import paths
        from pipeline.declaration import experiments

        torch.set_num_threads(1)
        for name in ("pipeline", "params.yaml"):
            (folder / name).symlink_to(paths.ROOT / name)
        paths.ROOT = folder
        os.environ["CONTRASTMASK_HOME"] = str(folder)
        self.declared = experiments.load()
        self.dataset = experiments.chosen_dataset()
        self._computations = {}

    def runs(self, tables):
        """{run: [kind, backbone, steps of all seeds, images predicted]} of tables, and the initial weights' steps."""
        from pipeline.declaration import config, experiments

        entry, found, weights = self.declared.dataset(self.dataset), {}, {}
        for table in tables or self.declared.tables:
            for run in experiments.runs_of(self.declared.tables[table]):
                seeds = config.load_knobs(self.declared.run(run)).seeds
                job = config.resolve(run, self.dataset, seeds[0], self.declared)
                found[run] = [self._kind(job), self._steps(job) * len(seeds), entry["val_images"] * len(seeds)]
                if job.initial_weights and self.declared.profile(self.dataset)["initial_weights"]["kind"] == "pretrain":
                    weights[job.initial_weights] = self._steps(
                        config.resolve_pretraining(job.initial_weights, self.dataset, self.declared)
                    )
        return [found, weights]

    def _steps(self, job):
        images = self.declared.dataset(self.dataset)["train_images"]
        schedule = job.schedule
        return schedule.get("iterations") or schedule["epochs"] * -(-images // job.data["batch_size"])

    def _kind(self, job):
        """Trainings of a kind have parameters of the same shapes."""
        import mmcv
        import torch
        from mmdet.models import build_detector

        from pipeline import methods

        methods.register(job.method, job.knobs)
        with torch.device("meta"):
            state = build_detector(mmcv.ConfigDict(job.model)).state_dict()
        return f"{job.method} {job.backbone} {sum(value.numel() for value in state.values())}"

    def draw(self):
        """Draw images and their splits."""
        from pipeline.artifacts import paths
        from pipeline.datasets.prepare import prepare
        from pipeline.declaration import subsets
        from pipeline.tasks.instances.split import split

        sizes = {"train_images": TRAINING_IMAGES, "val_images": VALIDATION_IMAGES}
        entry = self.declared.dataset(self.dataset) | sizes
        prepare(self.dataset, entry, images_root=paths.images_root(self.dataset), out_dir=paths.data(self.dataset))
        labels = self.declared.label_set(self.dataset)
        for name in labels.directions:
            split(subsets.train(self.dataset).annotations, labels, name, paths.split(self.dataset, name))

    def warm(self, key, steps):
        """Train initial weights for a few steps, so that there are RoIs."""
        from pipeline.artifacts import checkpoint, paths
        from pipeline.declaration import config

        job = config.resolve_pretraining(key, self.dataset, self.declared)
        computation = self._computation(f"{key} initial weights", job, None)
        for number in range(steps):
            self._step(computation, number)
        checkpoint.write(paths.initial_weights(self.dataset, key), computation["made"].model.state_dict(), {})

    def step(self, run):
        """Processor seconds of a training step of a run, or of initial weights, and of loading its images."""
        computation = self._computations.get(f"{run} initial weights") or self._of(run)
        return self._step(computation, 0)

    def predict(self, run):
        """Processor seconds of the prediction of an image, loading included."""
        from pipeline import methods
        from pipeline.artifacts import checkpoint, paths

        job, model = self._of(run)["job"], self._of(run)["made"].model
        name = f"{time.monotonic_ns():020x}"  # nothing is found that was saved before
        meta = {"fingerprint": name, "CLASSES": []}
        checkpoint.write(paths.checkpoint(self.dataset, job.name, job.seed), model.state_dict(), meta)
        began = _processor()
        methods.task_of(job.method).predict(job, paths.predictions(self.dataset, job.name, job.seed))
        model.train()
        return (_processor() - began) / VALIDATION_IMAGES

    def _of(self, run):
        from pipeline.artifacts import paths
        from pipeline.declaration import config

        if run in self._computations:
            return self._computations[run]
        seeds = config.load_knobs(self.declared.run(run)).seeds
        job = config.resolve(run, self.dataset, seeds[0], self.declared)
        start = paths.initial_weights(self.dataset, job.initial_weights) if job.initial_weights else None
        return self._computation(run, job, start)

    def _computation(self, name, job, start):
        import functools

        from pipeline import methods
        from pipeline.training.computation import Computation

        methods.register(job.method, job.knobs)
        room = methods.method(job.method)
        training_set = functools.partial(methods.task_of(job.method).training_set, job)
        made = Computation(job, training_set, room.autocast, start, "cpu")
        made.model.train()
        self._computations[name] = {"job": job, "made": made, "batches": self._batches(made)}
        return self._computations[name]

    def _batches(self, made):
        """Batches of a training, and the processor seconds that loading one takes."""
        loader = made._loader(0, 1)
        began, batches = time.process_time(), []
        for _, indices in zip(range(BATCHES), loader.batch_sampler, strict=False):
            batches.append(loader.collate_fn([loader.dataset[index] for index in indices]))
        return batches, (time.process_time() - began) / BATCHES

    def _step(self, computation, number):
        batches, loading = computation["batches"]
        began = time.process_time()
        computation["made"]._step(number, iter([batches[number % BATCHES]]))
        return time.process_time() - began + loading


def _processor():
    """Seconds of this process and of those that it waited for."""
    return sum(os.times()[:4])


def serve(folder):
    """Answer questions from standard input; what is printed meanwhile goes to standard error."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    measured = Measured(folder)
    for line in sys.stdin:
        name, *arguments = json.loads(line)
        print(json.dumps(getattr(measured, name)(*arguments)), file=answers, flush=True)


@contextlib.contextmanager
def trees(commit):
    """{name: folder} of this working copy and, if one is named, of a commit."""
    here = Path.cwd()
    if not commit:
        yield {"now": here}
        return
    with tempfile.TemporaryDirectory() as folder:
        before = Path(folder) / "before"
        subprocess.run(["git", "worktree", "add", "--quiet", "--detach", before, commit], check=True)
        try:
            yield {"now": here, "before": before}
        finally:
            subprocess.run(["git", "worktree", "remove", "--force", before], check=True)


def measure(workers, tables, warm, repeats):
    """{tree: {what: core-minutes}}, printing the kinds on the way; a run that not every tree has is left out."""
    asked = {name: worker.ask("runs", tables) for name, worker in workers.items()}
    for worker in workers.values():
        worker.ask("draw")
    first = next(iter(asked.values()))
    runs = [run for run in first[0] if all(run in of_tree for of_tree, _ in asked.values())]
    weights = [key for key in first[1] if all(key in of_tree for _, of_tree in asked.values())]
    for key in weights:
        for worker in workers.values():
            worker.ask("warm", key, warm)
    minutes = {name: {"initial weights": 0.0, "training": 0.0, "prediction": 0.0} for name in workers}
    print(f"{'seconds of a step':<44}{'runs':>5}" + "".join(f"{name:>10}" for name in workers) + f"{'ratio':>8}")
    for key in weights:
        steps = _alternately(workers, "step", key, repeats)
        _line(f"initial weights {key}", 1, steps)
        for name in workers:
            minutes[name]["initial weights"] += steps[name] * asked[name][1][key] / 60
    kinds = {}
    for run in runs:
        kinds.setdefault(tuple(of_tree[run][0] for of_tree, _ in asked.values()), []).append(run)
    for (kind, *_), alike in kinds.items():
        steps = _alternately(workers, "step", alike[0], repeats)
        images = _alternately(workers, "predict", alike[0], 1)
        _line(kind, len(alike), steps)
        for name in workers:
            for run in alike:
                _, count, predicted = asked[name][0][run]
                minutes[name]["training"] += steps[name] * count / 60
                minutes[name]["prediction"] += images[name] * predicted / 60
    return minutes


def _alternately(workers, question, about, repeats):
    """{tree: median answer}, the workers asked in turn; the first answer of each does not count."""
    answers = {name: [] for name in workers}
    for _ in range(repeats + 1):
        for name, worker in workers.items():
            answers[name].append(worker.ask(question, about))
    return {name: statistics.median(found[1:]) for name, found in answers.items()}


def _line(name, runs, values):
    now, *before = values.values()
    ratio = f"{now / before[0]:>8.2f}" if before else ""
    print(f"{name:<44}{runs:>5}" + "".join(f"{value:>10.3f}" for value in values.values()) + ratio, flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("tables", nargs="*", help="default: every declared one")
    parser.add_argument("--against", metavar="COMMIT", help="measure this one beside, in turn")
    parser.add_argument("--warm", type=int, default=80, help="steps of the detector that every kind starts from")
    parser.add_argument("--repeats", type=int, default=3, help="steps of each kind")
    parser.add_argument("--serve", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.serve:
        serve(args.serve)
        return
    with trees(args.against) as folders, tempfile.TemporaryDirectory() as scratch:
        workers = {}
        for name, tree in folders.items():
            (Path(scratch) / name).mkdir()
            workers[name] = Worker(tree, Path(scratch) / name)
        try:
            minutes = measure(workers, args.tables, args.warm, args.repeats)
        finally:
            for worker in workers.values():
                worker.end()
    print(f"{'core-minutes':<49}" + "".join(f"{name:>10}" for name in minutes) + f"{'ratio':>8}")
    for what in next(iter(minutes.values())):
        _total(what, {name: parts[what] for name, parts in minutes.items()})
    _total("together", {name: sum(parts.values()) for name, parts in minutes.items()})


def _total(what, values):
    now, *before = values.values()
    ratio = f"{now / before[0]:>8.2f}" if before and before[0] else ""
    print(f"{what:<49}" + "".join(f"{value:>10.1f}" for value in values.values()) + ratio)


if __name__ == "__main__":
    main()
