"""python -m benchmarks.split_scale: time and peak memory of the split stage at the size of COCO's train2017.

Draws an annotation file, then splits it in processes of their own: as the stage does it (`ours`), with `json.load` and
`json.dumps` of the whole file (`json`), and with `pycocotools.COCO` instead of the former (`pycocotools`). All write
the same bytes, which is checked. `unchecked` is the split without the checks of the content, `check` is what stage
download does with the file. Memory is the peak resident set.
"""

import argparse
import hashlib
import json
import math
import random
import subprocess
import sys
import tempfile
import time
from itertools import pairwise
from pathlib import Path
from unittest import mock

from benchmarks.measuring import exponent, peak_mb
from pipeline.datasets import coco_check
from pipeline.datasets.annotations import Checks, read_instances
from pipeline.declaration.label_sets import label_set
from pipeline.tasks.instances.split import IMAGE_FIELDS, NOVEL_FIELDS, split
from pipeline.tasks.instances.statistics import Statistics

IMAGES, ANNOTATIONS = 118_287, 860_001  # of train2017
WITHOUT_OBJECT, CROWDS = 0.0086, 0.0087  # shares of images and of annotations in it
SHAPES = 3000  # different outlines
IMAGE_SIZES = ((640, 480), (480, 640), (640, 427), (427, 640), (500, 375), (640, 640))
COCO_SET = label_set("coco")
DIRECTIONS = ("nonvoc2voc", "voc2nonvoc")
WAYS = ("json", "pycocotools", "ours", "unchecked", "check")


def size_options(parser):
    """Add the options that say how much is drawn and which split of it is made. Returns the parser."""
    parser.add_argument("--images", type=int, default=IMAGES, help="at scale 1")
    parser.add_argument("--annotations", type=int, default=ANNOTATIONS, help="at scale 1")
    parser.add_argument("--scale", type=float, nargs="+", default=[1.0])
    parser.add_argument("--direction", choices=DIRECTIONS, default="nonvoc2voc")
    return parser


def main():
    parser = size_options(argparse.ArgumentParser(description=__doc__.splitlines()[0]))
    parser.add_argument("--ways", choices=WAYS, nargs="+", default=WAYS)
    parser.add_argument("--folder", help="for the files (default: a temporary one, with room for three times the size)")
    parser.add_argument("--child", nargs=4, help=argparse.SUPPRESS)  # way, source, direction, folder
    args = parser.parse_args()
    if args.child:
        return child(*args.child)
    measured = {}
    with tempfile.TemporaryDirectory(dir=args.folder) as folder:
        for scale in args.scale:
            source = Path(folder) / "instances.json"
            images, annotations = round(args.images * scale), round(args.annotations * scale)
            write_instances(source, images, annotations)
            print(f"{images} images, {annotations} annotations, {source.stat().st_size / 1e6:.0f} MB")
            measured[scale] = {way: run(way, source, args.direction, folder) for way in args.ways}
    largest = max(args.scale)
    print(*figures(measured[largest]), *growth(measured))


def run(way, source, direction, folder):
    """Measure a child process: wall seconds without the start of Python, peak memory in MB, digest of the output."""
    command = [sys.executable, "-m", "benchmarks.split_scale", "--child", way, str(source), direction, folder]
    result = json.loads(subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout.splitlines()[-1])
    print(
        f"{way:12} {result['seconds']:8.2f} s, processor {result['cpu']:8.2f} s {result['mb']:8.0f} MB "
        f"{result['sha256'][:16]}",
        flush=True,
    )
    return result


def child(way, source, direction, folder):
    out = Path(folder) / "out"
    start = time.perf_counter()
    if way == "check":
        read_instances(source, COCO_SET, checks=coco_check.Checker(source, COCO_SET))
    elif way == "ours":
        split(source, COCO_SET, direction, out)
    elif way == "unchecked":
        with mock.patch("pipeline.datasets.coco_check.Checker", Unchecked):
            split(source, COCO_SET, direction, out)
    else:
        straightforward(source, direction, out, index=way == "pycocotools")
    seconds, cpu, peak = time.perf_counter() - start, time.process_time(), peak_mb()
    digest = ""
    if way != "check":
        digest = hashlib.sha256((out / "train.json").read_bytes() + (out / "split.json").read_bytes()).hexdigest()
    print(json.dumps({"seconds": seconds, "cpu": cpu, "mb": peak, "sha256": digest}))


class Unchecked(Checks):
    """What a reader cannot do without, in the place of `coco_check.Checker`."""

    def __init__(self, path, _masks=None):
        super().__init__(path)
        self.findings, self.with_mask = {}, 1


def figures(result):
    for way, values in result.items():
        yield f"{way}_s={values['seconds']:.2f} {way}_mb={values['mb']:.0f}"
    for other in ("json", "pycocotools"):
        if other in result and "ours" in result:
            for key, name in (("seconds", "time"), ("cpu", "processor"), ("mb", "memory")):
                yield f"{name}_to_{other}={result['ours'][key] / result[other][key]:.3f}"
    if "unchecked" in result and "ours" in result:
        yield f"processor_to_unchecked={result['ours']['cpu'] / result['unchecked']['cpu']:.3f}"
    digests = {values["sha256"] for values in result.values() if values["sha256"]}
    yield f"identical={str(len(digests) == 1).lower()}"


def growth(measured):
    """Exponents of time and memory of `ours` over the scale, from a straight line through the logarithms."""
    if len(measured) < 2 or "ours" not in next(iter(measured.values())):
        return
    for key, name in (("seconds", "time"), ("mb", "memory")):
        yield f"{name}_exponent={exponent(list(measured), [each['ours'][key] for each in measured.values()]):.2f}"


def straightforward(source, direction, out_dir, index=False):
    """What `pipeline.tasks.instances.split.split` writes, from the whole file in memory. The tests compare with it."""
    if index:
        from pycocotools.coco import COCO

        content = COCO(source).dataset
    else:
        with open(source, encoding="utf-8") as file:
            content = json.load(file)
    base, novel = COCO_SET.base_and_novel(direction)
    ids = {category["name"]: category["id"] for category in content["categories"]}
    groups = {ids[name]: "base" for name in base} | {ids[name]: "novel" for name in novel}
    statistics = Statistics(COCO_SET, groups)
    statistics.add_images(content["images"])
    statistics.add(content["annotations"], [groups.get(entry["category_id"]) for entry in content["annotations"]])
    header = {key: content[key] for key in ("info", "licenses", "categories") if key in content}
    images = ({key: image[key] for key in IMAGE_FIELDS if key in image} for image in content["images"])
    annotations = _partial(content["annotations"], groups)
    out_dir.mkdir(parents=True, exist_ok=True)
    with open(out_dir / "train.json", "w", encoding="utf-8") as file:
        file.write(_compact(header)[:-1])
        for name, entries in (("images", images), ("annotations", annotations)):
            file.write(f',"{name}":[')
            for position, entry in enumerate(entries):
                file.write("," * bool(position) + "\n" + _compact(entry))
            file.write("]")
        file.write("}\n")
    (out_dir / "split.json").write_text(json.dumps(statistics.summary(), indent=1) + "\n")


def _partial(annotations, groups):
    for annotation in annotations:
        group = groups.get(annotation["category_id"])
        if group == "base":
            yield {**annotation, "novel": False}
        elif group == "novel":
            _, _, width, height = annotation["bbox"]
            record = {key: annotation[key] for key in NOVEL_FIELDS if key in annotation}
            yield {**record, "area": width * height, "novel": True}


def _compact(value):
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False)


def write_instances(path, images, annotations, seed=0):
    """Write an annotation file that is laid out like COCO's: order of members, spaces, decimals, scattered annotations.

    Objects are outlines of a few to some hundred vertices, 41 % small and 24 % large ones; crowds are run lengths.

    Args:
        path: of the file. Images themselves are not drawn.
        images, annotations: how many.
        seed: of everything.
    """
    rng = random.Random(seed)
    sizes = [rng.choice(IMAGE_SIZES) for _ in range(images)]
    ids = rng.sample(range(1, 5 * images + 1), images)
    filled = range(max(1, round(images * (1 - WITHOUT_OBJECT))))
    shapes = [_outline(rng) for _ in range(SHAPES)]
    digits = [repr(v // 100) if v % 100 == 0 else repr(v / 100) for v in range(64001)]  # of hundredths of a pixel
    with open(path, "w", encoding="utf-8", buffering=1 << 20) as file:
        file.write(
            '{"info": {"description": "SYNTHETIC, for measurements","year": 2017},"licenses": [{"id": 1,"name": '
            '"none"}],"images": ['
        )
        for position, (number, (width, height)) in enumerate(zip(ids, sizes, strict=True)):
            name = f"{number:012d}.jpg"
            file.write(
                f'{"," * bool(position)}{{"license": 1,"file_name": "{name}","coco_url": "http://images.invalid/'
                f'train2017/{name}","height": {height},"width": {width},"date_captured": "2013-11-14 17:02:52",'
                f'"flickr_url": "http://farm7.invalid/6116/{number:010d}_02719f4c8e_z.jpg","id": {number}}}'
            )
        file.write('],"annotations": [')
        for position in range(annotations):
            image = rng.choice(filled)
            make = _crowd if rng.random() < CROWDS else _object
            text, area, box = make(rng, shapes, digits, *sizes[image])
            crowd, number = int(make is _crowd), position + 900_000_000_000 * (make is _crowd)
            category = rng.choice(COCO_SET.categories).id if rng.random() < 0.7 else 1
            file.write(
                f'{"," * bool(position)}{{"segmentation": {text},"area": {area},"iscrowd": {crowd},"image_id": '
                f'{ids[image]},"bbox": [{box}],"category_id": {category},"id": {number}}}'
            )
        file.write('],"categories": [')
        categories = [
            f'{{"supercategory": "{c.supercategory}","id": {c.id},"name": "{c.name}"}}' for c in COCO_SET.categories
        ]
        file.write(",".join(categories) + "]}")


def _outline(rng):
    """An outline in hundredths of a pixel: points, width, height, area in square pixels."""
    count = max(4, min(300, round(rng.lognormvariate(math.log(19), 0.7))))
    radius = min(210.0, rng.lognormvariate(math.log(25), 1.0)) * 100
    points = []
    for i in range(count):
        angle, reach = 2 * math.pi * i / count, radius * rng.uniform(0.55, 1.0)
        points.append((round(radius + reach * math.cos(angle)), round(radius + reach * math.sin(angle))))
    left, top = min(x for x, _ in points), min(y for _, y in points)
    points = [(x - left, y - top) for x, y in points]
    area = abs(sum(a[0] * b[1] - b[0] * a[1] for a, b in pairwise([*points, points[0]]))) / 20000
    return points, max(x for x, _ in points), max(y for _, y in points), area


def _object(rng, shapes, digits, width, height):
    points, across, down, area = rng.choice(shapes)
    dx, dy = int(rng.random() * (100 * width - across)), int(rng.random() * (100 * height - down))
    outline = ",".join([f"{digits[x + dx]},{digits[y + dy]}" for x, y in points])
    return f"[[{outline}]]", repr(area), f"{digits[dx]},{digits[dy]},{digits[across]},{digits[down]}"


def _crowd(rng, shapes, digits, width, height):
    counts, left = [], width * height
    while left > 400 and len(counts) < 1200:
        counts.append(rng.randrange(1, 400))
        left -= counts[-1]
    counts.append(left)
    text = f'{{"counts": [{",".join(map(str, counts))}],"size": [{height},{width}]}}'
    return text, sum(counts[1::2]), f"0,0,{width},{height}"


if __name__ == "__main__":
    main()
