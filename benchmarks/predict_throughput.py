"""python -m benchmarks.predict_throughput RUN_OR_CHECKPOINT IMAGES...: predict beside MMDetection's inference_detector.

The same model, threshold and images, one at a time, in turns. Milliseconds an image, median of the repeats, of time and
of processor time (children included): the bare `inference_detector`, `commands.predict` up to the saved detections
(journal), and what it writes afterwards (overlays, COCO files, label images, page). The last line has the detections
relative to the bare ones; on a machine that does other work the processor time is the one to trust.
"""

import argparse
import os
import shutil
import tempfile
import time
from pathlib import Path

from pipeline.inference import models, options, outputs, pictures, predict

# isort: split

import mmcv
import numpy as np
from mmdet.apis import inference_detector
from mmdet.datasets import replace_ImageToTensor


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", metavar="RUN_OR_CHECKPOINT")
    parser.add_argument("images", nargs="+")
    parser.add_argument("--score", type=options.fraction, default=0.5)
    parser.add_argument("--batch", type=options.count, default=1)
    parser.add_argument("--repeats", type=options.count, default=3)
    args = parser.parse_args()
    detector = models.load(args.model)
    found, _ = pictures.measured(pictures.find(args.images))
    detector.model.roi_head.test_cfg.score_thr = args.score
    detector.model.cfg = mmcv.Config({"data": {"test": {"pipeline": replace_ImageToTensor(plain(detector.steps))}}})
    times = []
    for _ in range(args.repeats + 1):  # the first one warms up
        folder = Path(tempfile.mkdtemp())
        marks = [now()]
        objects = sum(len(boxes) for picture in found for boxes in bare(detector, picture))
        marks.append(now())
        with predict.predicted(detector, found, folder / "out", args.score, args.batch) as lines:
            marks.append(now())
            outputs.write(lines, found, [], detector, folder / "out", args.score, detector.names)
            marks.append(now())
        times.append(np.diff(marks, axis=0))
        shutil.rmtree(folder)
    spent = np.median(times[1:], axis=0) / len(found) * 1e3  # [bare, journal, written; time, processor time]
    print(f"{len(found)} images, {objects / len(found):.1f} objects an image, {detector.device}, batch {args.batch}")
    for words, column in zip(("ms an image", "of a processor"), spent.T, strict=True):
        print("{}: inference_detector {:.1f}, predict {:.1f}, overlays and files {:.1f}".format(words, *column))
    ratio, processor = spent[1] / spent[0]
    print(f"predict={ratio:.2f} processor={processor:.2f} written={(spent[1:].sum(axis=0) / spent[0])[0]:.2f}")


def now():
    """Seconds on the clock, and of processors for this process and the children that it waited for."""
    used = os.times()
    return np.array([time.perf_counter(), used.user + used.system + used.children_user + used.children_system])


def plain(steps):
    """The detector's steps with MMDetection's own loader."""
    return [{"type": "LoadImageFromFile"}, *steps[1:]]


def bare(detector, picture):
    """Boxes by class of one image."""
    return inference_detector(detector.model, str(picture.path))[0]


if __name__ == "__main__":
    main()
