"""python -m benchmarks.miou_scale: time and memory of counting ADE20K-sized label maps, against others.

Draws label maps of ADE20K's validation set in size and number, seeded: 2,000 maps of 512 x 683 pixels, 150 classes in
blocks, 8 of 100 pixels without label, a prediction right at 70 of 100. Then counts them in one process, alternating
map by map, in four ways:

- ours: `pipeline.tasks.semantic.iou.counts`, which a score is made of;
- scikit-learn: `sklearn.metrics.confusion_matrix` of the labelled pixels of each image;
- bincount: `numpy.bincount(150 * prediction + truth)` of the labelled pixels in 64 bits, as evaluators have it;
- bincount alone: the same of numbers that are there already, which no evaluator gets around making.

Ratios are of processor time. scikit-learn gets every `--every`-th map, and its time is scaled. `--scoring` then writes
all maps as a run's predictions and truth, and scores them from disk in a process of its own: what decoding adds, and
the peak of memory, at a quarter of the maps and at all. The last line has all numbers as key=value.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from sklearn.metrics import confusion_matrix

from benchmarks.measuring import peak_mb
from pipeline.datasets.label_maps.packs import Pack, Writer
from pipeline.tasks.semantic import iou, scoring, stored

KEPT = 16  # different pairs of maps that are used in turn


def draw(rng, height, width, classes):
    """A truth and a prediction, uint8 [height, width] each."""
    blocks = rng.integers(0, classes, (-(-height // 32), -(-width // 32)))
    truth = np.kron(blocks, np.ones((32, 32), int))[:height, :width].astype(np.uint8)
    wrong = np.kron(rng.random((-(-height // 8), -(-width // 8))) < 0.3, np.ones((8, 8), bool))[:height, :width]
    prediction = np.where(wrong, rng.integers(0, classes, (height, width)), truth).astype(np.uint8)
    truth[np.kron(rng.random(blocks.shape) < 0.08, np.ones((32, 32), bool))[:height, :width]] = iou.IGNORE
    return truth, prediction


def pairs_of(prediction, truth, classes):
    known = truth != iou.IGNORE
    return classes * prediction[known].astype(np.int64) + truth[known].astype(np.int64)


def by_bincount(prediction, truth, classes):
    return np.bincount(pairs_of(prediction, truth, classes), minlength=classes**2).reshape(classes, classes)


def by_scikit_learn(prediction, truth, classes):
    known = truth != iou.IGNORE
    return confusion_matrix(truth[known], prediction[known], labels=np.arange(classes)).T


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=2000)
    parser.add_argument("--height", type=int, default=512)
    parser.add_argument("--width", type=int, default=683)
    parser.add_argument("--classes", type=int, default=150)
    parser.add_argument("--every", type=int, default=1, help="maps of which scikit-learn gets one")
    parser.add_argument("--scoring", action="store_true", help="score from disk, too")
    parser.add_argument("--measure", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.measure:
        start = time.process_time()
        scoring.counted(Pack(args.measure / "maps.json"), args.measure / "seed0.json", args.classes)
        print(json.dumps({"s": time.process_time() - start, "mb": peak_mb()}))
        return
    rng = np.random.default_rng(0)
    maps = [draw(rng, args.height, args.width, args.classes) for _ in range(min(KEPT, args.images))]
    row = {"images": args.images, **counted(maps, args)}
    if args.scoring:
        row |= scored(maps, args)
    print(" ".join(f"{key}={value}" for key, value in row.items()))


def counted(maps, args):
    ways = {"ours": iou.confusion, "bincount": by_bincount, "alone": None, "scikit_learn": by_scikit_learn}
    spent, tables = dict.fromkeys(ways, 0.0), {}
    before = peak_mb()
    for number in range(args.images):
        truth, prediction = maps[number % len(maps)]
        for way, count in ways.items():
            if way == "scikit_learn" and number % args.every:
                continue
            if way == "alone":
                pairs, size = pairs_of(prediction, truth, args.classes), args.classes**2
                start = time.process_time()
                np.bincount(pairs, minlength=size)
                spent[way] += time.process_time() - start
                continue
            start = time.process_time()
            found = count(prediction, truth, args.classes)
            spent[way] += time.process_time() - start
            tables.setdefault(way, []).append(found if number < len(maps) else None)
    for way in ("bincount", "scikit_learn"):
        given = tables["ours"][:: args.every] if way == "scikit_learn" else tables["ours"]
        assert all((a == b).all() for a, b in zip(given, tables[way], strict=True) if a is not None), way
    spent["scikit_learn"] *= args.images / len(range(0, args.images, args.every))
    row = {f"{way}_s": round(seconds, 2) for way, seconds in spent.items()}
    row |= {
        "faster_than_scikit_learn": round(spent["scikit_learn"] / spent["ours"], 2),
        "times_bincount": round(spent["ours"] / spent["bincount"], 3),
        "times_bincount_alone": round(spent["ours"] / spent["alone"], 3),
        "memory_added_mb": round(peak_mb() - before, 1),
    }
    print(" ".join(f"{key}={value}" for key, value in row.items()), flush=True)
    return row


def scored(maps, args):
    """Time and memory of `scoring.counted` from files, of a quarter of the maps, then of all."""
    row = {}
    for name, count in (("quarter", max(args.images // 4, 1)), ("all", args.images)):
        with tempfile.TemporaryDirectory() as folder:
            folder = Path(folder)
            with open(folder / "maps.pack", "wb") as pack, open(folder / "seed0.json", "w") as found:
                writer = Writer(pack, "maps.pack")
                for number in range(count):
                    truth, prediction = maps[number % len(maps)]
                    writer.add(f"{number}.png", truth)
                    found.write("[,"[number > 0] + json.dumps(stored.record(f"{number}.png", prediction)))
                found.write("]\n")
            (folder / "maps.json").write_text(writer.index())
            command = [sys.executable, "-m", "benchmarks.miou_scale", "--measure", str(folder), "--classes"]
            done = subprocess.run([*command, str(args.classes)], check=True, capture_output=True, text=True)
            measured = json.loads(done.stdout)
            row |= {f"scoring_{name}_s": round(measured["s"], 2), f"scoring_{name}_mb": round(measured["mb"])}
    return row


if __name__ == "__main__":
    main()
