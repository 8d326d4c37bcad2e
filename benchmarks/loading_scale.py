"""python -m benchmarks.loading_scale: time and memory of serving training annotations at the size of COCO's train2017.

Draws an annotation file, splits it, and serves one epoch from the result with four forked data workers: with
`PartialCocoDataset` (`ours`) and with mmdet's CocoDataset (`stock`), each in a process of its own. A sample is what the
steps of training start from: record, boxes, labels and masks of an image as `get_ann_info` gives them, in the order of
`IterationBatchSampler`. Images are not opened, so times are those of annotations alone. Each worker sees its share of
the epoch. Both serve the same samples, which is checked.

`ready`: the data set is built; `first`: the first batch has arrived, counted from the same start; `epoch`: the last one
has, counted from the first. Memory is the peak of the whole process tree, what processes share counted once.
"""

import argparse
import functools
import hashlib
import json
import sys
import tempfile
import time
import warnings
import zlib
from pathlib import Path

from benchmarks.measuring import exponent, watched
from benchmarks.split_scale import COCO_SET, size_options, write_instances
from pipeline.tasks.instances.split import split

WAYS = ("stock", "ours")
BATCH = 2  # images a batch, as a GPU gets on COCO


def main():
    parser = size_options(argparse.ArgumentParser(description=__doc__.splitlines()[0]))
    parser.add_argument("--workers", type=int, default=4)
    parser.add_argument("--ways", choices=WAYS, nargs="+", default=WAYS)
    parser.add_argument("--folder", help="for the files (default: a temporary one, with room for twice the size)")
    parser.add_argument("--child", nargs=3, help=argparse.SUPPRESS)  # way, file, workers
    args = parser.parse_args()
    if args.child:
        return child(*args.child)
    measured = {}
    for scale in args.scale:
        with tempfile.TemporaryDirectory(dir=args.folder) as folder:
            images, annotations = round(args.images * scale), round(args.annotations * scale)
            source = Path(folder) / "instances.json"
            write_instances(source, images, annotations)
            split(source, COCO_SET, args.direction, folder)
            file = Path(folder) / "train.json"
            print(f"{images} images, {annotations} annotations, {file.stat().st_size / 1e6:.0f} MB")
            measured[scale] = {way: run(way, file, args.workers) for way in args.ways}
    print(*figures(measured))


def run(way, file, workers):
    """Measure a child process: seconds, peak memory of its tree in MB, digest of the samples."""
    command = [sys.executable, "-m", "benchmarks.loading_scale", "--child", way, str(file), str(workers)]
    line, peak = watched(command)
    result = json.loads(line) | {"mb": peak}
    print(
        f"{way:6} ready {result['ready']:6.2f} s, first {result['first']:6.2f} s, epoch {result['epoch']:6.2f} s, "
        f"{peak:7.0f} MB {result['sha256'][:16]}",
        flush=True,
    )
    return result


def child(way, file, workers):
    from pipeline.tasks.instances.packed_coco import PartialCocoDataset  # isort: skip  before mmdet
    from mmdet.datasets import CocoDataset
    from torch.utils.data import DataLoader

    from pipeline.training.sampler import IterationBatchSampler

    warnings.filterwarnings("ignore", message="This DataLoader will create")  # more workers than cores
    start = time.perf_counter()
    ours = functools.partial(PartialCocoDataset, label_set=COCO_SET)
    dataset = {"ours": ours, "stock": CocoDataset}[way](file, [checksum])
    ready = time.perf_counter() - start
    batches = functools.partial(IterationBatchSampler, dataset.flag, BATCH, seed=0, start_iteration=0)
    loader = DataLoader(
        dataset if way == "ours" else WithoutSeeds(dataset),
        batch_sampler=batches(max_iterations=batches(max_iterations=0).iterations_per_epoch),
        num_workers=int(workers),
        multiprocessing_context="fork",
        collate_fn=list,
    )
    served, first = hashlib.sha256(), None
    for batch in loader:
        first = first or time.perf_counter() - start
        served.update(repr(batch).encode())
    epoch = time.perf_counter() - start - first
    print(json.dumps({"ready": ready, "first": first, "epoch": epoch, "sha256": served.hexdigest()}))


class WithoutSeeds:
    """mmdet's CocoDataset takes positions alone, the sampler gives `(position, seed)`."""

    def __init__(self, dataset):
        self.dataset = dataset

    def __getitem__(self, index):
        return self.dataset[index[0]]


def checksum(sample):
    """A step of the pipeline: stands for a sample without sending it between processes."""
    import orjson

    from pipeline.tasks.instances.packed_coco import NO_MASK

    image, annotations = sample["img_info"], sample["ann_info"]
    masks = [mask for mask in annotations["masks"] if mask is not None and mask != NO_MASK]
    content = [image, [annotations[key].tolist() for key in ("bboxes", "labels", "bboxes_ignore")], masks]
    return zlib.crc32(orjson.dumps(content))


def figures(measured):
    result = measured[max(measured)]
    for way, values in result.items():
        yield from (f"{way}_{key}_s={values[key]:.2f}" for key in ("ready", "first", "epoch"))
        yield f"{way}_mb={values['mb']:.0f}"
    if len(result) == 2:
        for key in ("first", "epoch", "mb"):
            yield f"{key}_stock_to_ours={result['stock'][key] / result['ours'][key]:.2f}"
        yield f"identical={str(result['stock']['sha256'] == result['ours']['sha256']).lower()}"
    if len(measured) > 1 and "ours" in result:
        for key in ("first", "epoch", "mb"):
            yield f"{key}_exponent={exponent(list(measured), [each['ours'][key] for each in measured.values()]):.2f}"


if __name__ == "__main__":
    main()
