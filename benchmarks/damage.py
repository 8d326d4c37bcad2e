"""Damage what a finished run left, many times, and count what goes unnoticed.

python -m benchmarks.damage [--copies 20]

A small training is made and evaluated on a few drawn images. Then copies of each of its files are damaged: a bit
changed anywhere, the end cut off, a block of zeros, the same file of another run, an empty one. A copy is `noticed` if
reading it ends in one line with a remedy, `harmless` if what is read is what was written (saved detections are made
anew from the damage on), and `silent` if anything else is taken for the run's.
"""

import argparse
import contextlib
import logging
import random
import sys
import tempfile
from collections import Counter
from pathlib import Path
from unittest.mock import Mock

import torch

from benchmarks.random_kills import move_to
from pipeline import runs
from pipeline.artifacts import checkpoint, detections, paths, results
from pipeline.declaration import experiments
from pipeline.errors import ExperimentError
from pipeline.reporting import measured
from pipeline.tasks.instances import prediction
from pipeline.training import loop
from tests.tiny import DATASET, RUN, draw_inputs, job

OTHER = "cam_r50_1x_nonvoc2voc"
KINDS = ("bit", "cut", "zeros", "other", "empty")


def damage(content, kind, drawn, other=b""):
    """Damaged bytes of a file; never those that it had.

    Args:
        kind: one of KINDS.
        drawn: random.Random.
        other: content of the same file of another run.
    """
    damaged = bytearray(content)
    if kind == "bit":
        damaged[drawn.randrange(len(damaged))] ^= 1 << drawn.randrange(8)
    elif kind == "cut":
        del damaged[drawn.randrange(1, len(damaged)) :]
    elif kind == "zeros":
        at = drawn.randrange(len(damaged))
        damaged[at : at + 4096] = bytes(len(damaged[at : at + 4096]))
    else:
        damaged = bytearray(other if kind == "other" else b"")
    return bytes(damaged) if damaged != content else damage(content, kind, drawn, other)


def make_run(work):
    """Train and evaluate, without MLflow."""
    runs.ensure_images = lambda dataset: None
    runs.resolve_seeds = lambda run_name, dataset: [work]
    runs.track = lambda *_: contextlib.nullcontext(Mock())
    runs.train(RUN, DATASET)
    saved = paths.saved_predictions(runs.trained_fingerprint(work))
    detections.forget, forget = lambda fingerprint: None, detections.forget
    runs.evaluate(RUN, DATASET)
    detections.forget = forget
    return saved


def outcome(read, whole):
    """'noticed', 'harmless' or 'silent' of one damaged copy."""
    try:
        return "harmless" if read() == whole else "silent"
    except ExperimentError as error:
        return "noticed" if "run `" in str(error) and "\n" not in str(error) else f"no remedy: {error}"


def weights(content):
    return checkpoint.digest(content["state_dict"], {})


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--copies", type=int, default=20, help="damaged copies of each file; seeds 0, 1, ... are used")
    copies = parser.parse_args().copies
    logging.getLogger("pipeline").setLevel(logging.ERROR)
    with tempfile.TemporaryDirectory(prefix="damage") as folder:
        move_to(Path(folder))
        draw_inputs()
        others = []
        for seed in (1, 0):  # the first one is the other run
            work = job(seed, iterations=2)
            work.model["test_cfg"]["rcnn"]["score_thr"] = 0.0  # or so short a training detects nothing
            saved = make_run(work)
            scratch = saved.parent
            files = {
                "finished checkpoint": scratch / "checkpoint.pth",
                "published checkpoint": paths.checkpoint(DATASET, RUN, seed),
                "saved detections": saved,
                "results": paths.results(DATASET, RUN),
                "predictions": paths.predictions(DATASET, RUN, seed),
            }
            if not others:  # by its right name, results are those of another run
                content = results.read(DATASET, RUN) | {"run": OTHER}
                results.write(DATASET, OTHER, content)
                files["results"] = paths.results(DATASET, OTHER)
            others.append({name: path.read_bytes() for name, path in files.items()})
        run = experiments.load().run(RUN)
        again = Path(folder) / "again.json"

        def finished():
            if not loop.finished(scratch):
                raise ExperimentError("trained again; run `nothing`")
            return weights(torch.load(scratch / "checkpoint.pth", weights_only=True))

        def published():
            runs.require_trained(work)
            return weights(checkpoint.of_run(work))

        def detections():
            prediction.predict(work, again)
            return again.read_bytes()

        readers = {
            "finished checkpoint": finished,
            "published checkpoint": published,
            "saved detections": detections,
            "results": lambda: measured.result(DATASET, run),
            "predictions": lambda: measured.predictions(DATASET, run),
        }
        silent = 0
        for name, read in readers.items():
            content, whole, counts = files[name].read_bytes(), read(), Counter()
            for seed in range(copies):
                kind = KINDS[seed % len(KINDS)]
                files[name].write_bytes(damage(content, kind, random.Random(seed), others[0][name]))
                counts[found := outcome(read, whole)] += 1
                if found not in ("noticed", "harmless"):
                    print(f"{name}, seed {seed}, {kind}: {found}", flush=True)
                    silent += 1
                files[name].write_bytes(content)
            print(f"{name}: {dict(counts)}", flush=True)
    print(f"files={len(readers)} copies={copies * len(readers)} silent={silent}")
    sys.exit(bool(silent))


if __name__ == "__main__":
    main()
