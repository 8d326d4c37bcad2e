"""python -m benchmarks.eval_scale: time and memory of scoring at the size of COCO val2017, against plain pycocotools.

Draws a ground truth and detections with masks (seeded), then scores them twice, each in a process of its own: with
pycocotools, three evaluations (novel, base, all) of masks and of boxes, and with `pipeline.tasks.instances.scoring`.
pycocotools gets its leanest use: results are loaded once for all three groups. Imports are left out of the times,
except hotcoco's.
`--scale` repeats this at fractions of the images. The last line has the numbers of the first scale as key=value.

Statistics of the drawing are like those of val2017: 7.3 objects an image, lognormal extents, 80 categories with
frequencies falling like 1/rank, 1 % crowds, photographs of about 640x480. Half of the detections follow an object with
noise, most of them in its category; the rest is anywhere. A mask is a polygon around a wavy ellipse.
"""

import argparse
import contextlib
import io
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from pycocotools import mask as rle
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from benchmarks.measuring import exponent, peak_mb
from pipeline.declaration.label_sets import label_set
from pipeline.tasks.instances import scoring
from pipeline.tasks.instances.coco_engines import IOU_TYPES, match

SIZES = ((480, 640), (640, 480), (427, 640), (375, 500))  # height, width of common photographs
OBJECTS = 36781 / 5000  # an image of val2017
CORNERS = 24  # of a polygon
COCO_SET = label_set("coco")
IDS = np.array([category.id for category in COCO_SET.categories])
GROUPS = {
    "novel": [category.id for category in COCO_SET.categories if category.name in COCO_SET.groups["nonvoc"]],
    "base": [category.id for category in COCO_SET.categories if category.name in COCO_SET.groups["voc"]],
    "all": None,
}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=5000)
    parser.add_argument("--detections", type=int, default=100, help="per image")
    parser.add_argument("--scale", type=float, nargs="+", default=[1.0], help="fractions of --images")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--repeats", type=int, default=3, help="of ours, the median counts; pycocotools runs once")
    parser.add_argument("--no-reference", action="store_true", help="leave pycocotools out")
    parser.add_argument("--measure", nargs=3, metavar=("WHO", "TRUTH", "FOUND"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.measure:
        who, *files = args.measure
        print(json.dumps({"ours": measure_ours, "pycocotools": measure_pycocotools}[who](*map(Path, files))))
        return
    rows = [run(round(args.images * scale), args) for scale in args.scale]
    for who in ("ours", "pycocotools") if len(rows) > 1 else ():
        if f"{who}_s" in rows[0]:
            for quantity in ("s", "mb"):
                values = [row[f"{who}_{quantity}"] for row in rows]
                rows[0][f"{who}_{quantity}_exponent"] = f"{exponent(args.scale, values):.2f}"
    print(" ".join(f"{key}={value}" for key, value in rows[0].items()))


def run(images, args):
    """Draw one size and score it both ways; returns {key: value} and prints it."""
    with tempfile.TemporaryDirectory() as folder:
        truth, found = Path(folder) / "truth.json", Path(folder) / "found.json"
        objects = draw(truth, found, images, args.detections, args.seed)
        ours = [child("ours", truth, found) for _ in range(args.repeats)]
        row = {
            "images": images,
            "objects": objects,
            "detections": images * args.detections,
            "file_mb": round(found.stat().st_size / 1e6),
            "ours_s": round(np.median([each["s"] for each in ours]), 3),
            "ours_mb": round(max(each["mb"] for each in ours)),
        }
        if not args.no_reference:
            theirs = child("pycocotools", truth, found)
            row |= {
                "pycocotools_s": round(theirs["s"], 1),
                "pycocotools_segm_s": round(theirs["segm_s"], 1),
                "pycocotools_mb": round(theirs["mb"]),
                "faster": round(theirs["s"] / row["ours_s"], 1),
                "memory": round(row["ours_mb"] / theirs["mb"], 3),
                "largest_difference": max(largest_difference(each["values"], theirs["values"]) for each in ours),
                "novel_mask_AP": round(theirs["values"]["segm"]["novel"][0], 4),
            }
    print(" ".join(f"{key}={value}" for key, value in row.items()), flush=True)
    return row


def child(who, truth, found):
    """Measure in a fresh process: {"s": seconds, "mb": peak of resident memory, "values": the 12 numbers}."""
    command = [sys.executable, "-m", "benchmarks.eval_scale", "--measure", who, str(truth), str(found)]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def measure_ours(truth, found):
    start = time.perf_counter()
    matched = match(truth, found)
    values = {
        iou_type: {group: [*scoring.statistics(matched, iou_type, ids).values()] for group, ids in GROUPS.items()}
        for iou_type in IOU_TYPES
    }
    return {"s": time.perf_counter() - start, "mb": peak_mb(), "values": values}


def measure_pycocotools(truth_path, found):
    start = time.perf_counter()
    values, seconds = {}, {}
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(str(truth_path))
        for iou_type in IOU_TYPES:
            begin = time.perf_counter()
            values[iou_type] = reference(truth, json.loads(found.read_text()), iou_type, GROUPS)
            seconds[f"{iou_type}_s"] = time.perf_counter() - begin
    return {"s": time.perf_counter() - start, "mb": peak_mb(), "values": values, **seconds}


def reference(truth, records, iou_type, groups):
    """Plain pycocotools with `params.catIds` set to each group: {group: its 12 numbers}, nan where undefined.

    Args:
        truth: pycocotools COCO. records: at least one COCO result record; their other geometry is removed in place.
    """
    for record in records:
        record.pop("bbox" if iou_type == "segm" else "segmentation", None)
    with contextlib.redirect_stdout(io.StringIO()):
        results = truth.loadRes(records)
        values = {}
        for group, ids in groups.items():
            evaluator = COCOeval(truth, results, iou_type)
            if ids is not None:
                evaluator.params.catIds = ids
            evaluator.evaluate()
            evaluator.accumulate()
            evaluator.summarize()
            values[group] = np.where(evaluator.stats < 0, np.nan, evaluator.stats).tolist()
    return values


def largest_difference(ours, theirs):
    """Largest absolute difference over types, groups and the 12 numbers, fractions; nan equals nan only."""
    pairs = [np.array([side[iou_type][group] for side in (ours, theirs)]) for iou_type in theirs for group in GROUPS]
    return float(
        max(np.where(np.isnan(a) & np.isnan(b), 0, np.nan_to_num(abs(a - b), nan=np.inf)).max() for a, b in pairs)
    )


def draw(truth, found, images, detections, seed):
    """Write an instances file and a results file; returns the number of objects."""
    rng = np.random.default_rng(seed)
    frequencies = 1 / np.arange(1, len(IDS) + 1)
    frequencies /= frequencies.sum()
    photographs, annotations = [], []
    with found.open("w") as file:
        for image in range(1, images + 1):
            height, width = SIZES[rng.integers(len(SIZES))]
            photographs.append({"id": image, "height": height, "width": width, "file_name": f"{image:012d}.jpg"})
            count = rng.geometric(1 / (1 + OBJECTS)) - 1
            shapes = draw_shapes(rng, count, height, width)
            categories = rng.choice(IDS, count, p=frequencies)
            crowds = rng.random(count) < 0.01
            for shape, category, crowd in zip(shapes, categories.tolist(), crowds.tolist(), strict=True):
                annotations.append(
                    annotation(shape, category, crowd, height, width) | {"id": len(annotations) + 1, "image_id": image}
                )
            records = draw_detections(rng, shapes, categories, detections, frequencies, height, width)
            text = ",".join(json.dumps({"image_id": image, **each}, separators=(",", ":")) for each in records)
            file.write(("[" if image == 1 else ",") + text)
        file.write("]\n")
    categories = [category._asdict() for category in COCO_SET.categories]
    truth.write_text(json.dumps({"images": photographs, "annotations": annotations, "categories": categories}))
    return len(annotations)


def draw_shapes(rng, count, height, width):
    """Centre x and y, radii, and a waviness for each corner: [count, 4 + CORNERS]."""
    extents = np.exp(rng.normal([-2.3, -2.1], [0.9, 0.9], (count, 2))).clip(0.01, 0.95) * [width, height] / 2
    centres = extents + rng.random((count, 2)) * ([width, height] - 2 * extents)
    return np.hstack([centres, extents, 1 + 0.12 * rng.standard_normal((count, CORNERS)).clip(-2, 2)])


def polygon(shape, height, width):
    """Corners x1, y1, x2, y2, ... within the image."""
    angles = np.linspace(0, 2 * np.pi, CORNERS, endpoint=False)
    x = (shape[0] + shape[2] * shape[4:] * np.cos(angles)).clip(0, width - 1)
    y = (shape[1] + shape[3] * shape[4:] * np.sin(angles)).clip(0, height - 1)
    return np.stack([x, y], 1).ravel().round(2).tolist()


def annotation(shape, category, crowd, height, width):
    corners = polygon(shape, height, width)
    encoded = rle.merge(rle.frPyObjects([corners], height, width))
    segmentation = [corners]
    if crowd:  # official files have crowds as lengths of runs, beginning with zeros
        pixels = rle.decode(encoded).ravel(order="F")
        edges = np.flatnonzero(np.diff(pixels, prepend=0)).tolist()
        segmentation = {"counts": np.diff([0, *edges, len(pixels)]).tolist(), "size": [height, width]}
    return {
        "category_id": category,
        "iscrowd": int(crowd),
        "area": float(rle.area(encoded)),
        "bbox": rle.toBbox(encoded).tolist(),
        "segmentation": segmentation,
    }


def draw_detections(rng, shapes, categories, count, frequencies, height, width):
    """COCO result records of one image without its id."""
    drawn = draw_shapes(rng, count, height, width)
    labels = rng.choice(IDS, count, p=frequencies)
    scores = rng.beta(0.6, 4, count)
    if len(shapes):
        follows = rng.random(count) < 0.5
        which = rng.integers(len(shapes), size=count)
        noise = np.exp(rng.normal(-2.5, 0.8, count))[:, None]  # relative to the object's extents
        near = shapes[which].copy()
        near[:, :2] += near[:, 2:4] * noise * rng.standard_normal((count, 2))
        near[:, 2:4] *= np.exp(noise * rng.standard_normal((count, 2)))
        drawn = np.where(follows[:, None], near, drawn)
        labels = np.where(follows & (rng.random(count) < 0.8), categories[which], labels)
        scores = np.where(follows, (rng.beta(2, 2, count) * np.exp(-2 * noise[:, 0])), scores)
    encoded = rle.frPyObjects([polygon(shape, height, width) for shape in drawn], height, width)
    boxes = rle.toBbox(encoded) + rng.normal(0, 1, (count, 4))  # boxes of a detector are not those of its masks
    boxes[:, 2:] = boxes[:, 2:].clip(1)
    for label, confidence, box, mask in zip(
        labels.tolist(), scores.astype(np.float32).tolist(), boxes.astype(np.float32).tolist(), encoded, strict=True
    ):
        yield {
            "category_id": label,
            "score": confidence,
            "bbox": box,
            "segmentation": {"size": mask["size"], "counts": mask["counts"].decode()},
        }


if __name__ == "__main__":
    main()
