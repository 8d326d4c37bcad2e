"""python -m benchmarks.predict_throughput RUN_OR_CHECKPOINT IMAGES...: predict beside MMDetection's inference_detector.

The same model, threshold and images, one at a time, in turns. Milliseconds an image, median of the repeats: the bare
`inference_detector`, and `commands.predict` up to the saved detections (journal) and with all that it writes (overlays,
COCO files, label images, page). The last line has them relative to the bare one.
"""

import argparse
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
        start = time.perf_counter()
        objects = sum(len(boxes) for picture in found for boxes in bare(detector, picture))
        ours = time.perf_counter()
        with predict.predicted(detector, found, folder / "out", args.score, args.batch) as lines:
            saved = time.perf_counter()
            outputs.write(lines, found, [], detector, folder / "out", args.score, detector.names)
        times.append([ours - start, saved - ours, time.perf_counter() - ours])
        shutil.rmtree(folder)
    bare_time, journal, written = np.median(times[1:], axis=0) / len(found) * 1e3
    print(f"{len(found)} images, {objects / len(found):.1f} objects an image, {detector.device}, batch {args.batch}")
    print(f"inference_detector {bare_time:.1f} ms, predict {journal:.1f} ms, with overlays and files {written:.1f} ms")
    print(f"predict={journal / bare_time:.2f} written={written / bare_time:.2f}")


def plain(steps):
    """The detector's steps with MMDetection's own loader."""
    return [{"type": "LoadImageFromFile"}, *steps[1:]]


def bare(detector, picture):
    """Boxes by class of one image."""
    return inference_detector(detector.model, str(picture.path))[0]


if __name__ == "__main__":
    main()
