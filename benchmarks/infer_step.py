"""python -m benchmarks.infer_step: inference of the embedded default's model, several images at a time.

Random weights on random images, with a score threshold of 0, so that every image has the most detections there can be,
100, or of 0.05, so that it has hardly any. Milliseconds an image, median of the repeats, which take turns. The last
line has the times relative to one image at a time.
"""

import argparse
import time

from pipeline import compat  # noqa: F401  # must precede mmcv

# isort: split

import mmcv
import numpy as np
import torch
from mmdet.models import build_detector

from pipeline.declaration import config
from pipeline.hardware import use_device

RUN, DATASET, SIDE = "contrastmask_r50_1x_nonvoc2voc", "generated", 128


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=16)
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 2, 4, 8])
    parser.add_argument("--repeats", type=int, default=5)
    args = parser.parse_args()
    device = use_device()
    torch.manual_seed(0)
    model = build_detector(mmcv.ConfigDict(config.resolve(RUN, DATASET, 0).model)).to(device).eval()
    images = torch.randn(args.images, 3, SIDE, SIDE, device=device)
    relative = []
    for threshold in (0.0, 0.05):
        model.roi_head.test_cfg.score_thr = threshold
        runs = [[infer(model, images, batch) for batch in args.batches] for _ in range(args.repeats + 1)][1:]
        times = np.median([[seconds for seconds, _ in run] for run in runs], axis=0) / args.images * 1e3
        found = runs[0][0][1] / args.images
        print(
            f"{found:.0f} detections an image:",
            *(f"{b} at a time {t:.1f} ms" for b, t in zip(args.batches, times, strict=True)),
            flush=True,
        )
        relative += [
            f"batch{b}_{found:.0f}_detections={t / times[0]:.2f}" for b, t in zip(args.batches, times, strict=True)
        ]
    print(*relative)


@torch.no_grad()
def infer(model, images, batch):
    """Seconds, and the number of detections; masks come back in the original image, as in evaluation."""
    shape = (*images.shape[2:], 3)
    meta = {"img_shape": shape, "ori_shape": shape, "pad_shape": shape, "scale_factor": np.ones(4, np.float32)}
    start, found = time.perf_counter(), 0
    for part in images.split(batch):
        results = model.simple_test(part, [dict(meta) for _ in part], rescale=True)
        found += sum(len(boxes) for of_image, _ in results for boxes in of_image)
    return time.perf_counter() - start, found


if __name__ == "__main__":
    main()
