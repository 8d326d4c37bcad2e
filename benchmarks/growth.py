"""python -m benchmarks.growth: how time and memory of split, loading and scoring grow with the size of the data.

Runs what `split_scale`, `loading_scale` and `eval_scale` measure of the pipeline's own code at 1/16, 1/4 and all of
COCO's size, each in a process of its own, and writes `docs/growth.csv` and `docs/growth.png`. `--draw` draws the figure
from the table that is there.
"""

import argparse
import csv
import statistics
import tempfile
from pathlib import Path

from matplotlib.ticker import LogLocator, NullLocator

from benchmarks import eval_scale, loading_scale, split_scale
from benchmarks.measuring import exponent
from pipeline.artifacts import paths
from pipeline.reporting import style

SCALES = (0.0625, 0.25, 1.0)
SCORED_IMAGES, DETECTIONS = 5000, 100  # of val2017; an image
WORKERS = 4
COLUMNS = ("part", "scale", "images", "objects", "seconds", "mb")
PARTS = {  # label and marker
    "split": ("split of the training annotations", "o"),
    "loading": (f"loading: first batch, {WORKERS} workers", "s"),
    "scoring": ("scoring of the detections", "^"),
}
TITLE = "Growth with the size of the data"
CAPTION = "Wall time and peak memory at shares of COCO's size; exponents of a straight line through the logarithms."


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--scale", type=float, nargs="+", default=SCALES)
    parser.add_argument("--repeats", type=int, default=3, help="the median time counts, and the largest memory")
    parser.add_argument("--folder", help="for the files (default: a temporary one)")
    parser.add_argument("--out", type=Path, default=paths.ROOT / "docs")
    parser.add_argument("--draw", action="store_true", help="measure nothing")
    args = parser.parse_args()
    table = args.out / "growth.csv"
    if not args.draw:
        rows = [row for scale in args.scale for row in measure(scale, args.repeats, args.folder)]
        with table.open("w", newline="") as file:
            writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
            writer.writeheader()
            writer.writerows(sorted(rows, key=lambda row: list(PARTS).index(row["part"])))
    with table.open(newline="") as file:
        series = read(csv.DictReader(file))
    draw(series, args.out / "growth.png")
    print(
        *(
            f"{part}_{name}_exponent={exponent(columns['scale'], columns[name]):.2f}"
            for part, columns in series.items()
            for name in ("seconds", "mb")
        )
    )


def measure(scale, repeats, folder):
    """Rows of the table at one scale."""
    with tempfile.TemporaryDirectory(dir=folder) as files:
        source, train = Path(files) / "instances.json", Path(files) / "out" / "train.json"
        images, objects = round(split_scale.IMAGES * scale), round(split_scale.ANNOTATIONS * scale)
        split_scale.write_instances(source, images, objects)
        runs = [split_scale.run("ours", source, "nonvoc2voc", files) for _ in range(repeats)]
        yield row("split", scale, images, objects, [(run["seconds"], run["mb"]) for run in runs])
        runs = [loading_scale.run("ours", train, WORKERS) for _ in range(repeats)]
        yield row("loading", scale, images, objects, [(run["first"], run["mb"]) for run in runs])
    with tempfile.TemporaryDirectory(dir=folder) as files:
        truth, found = Path(files) / "truth.json", Path(files) / "found.json"
        images = round(SCORED_IMAGES * scale)
        eval_scale.draw(truth, found, images, DETECTIONS, seed=0)
        runs = [eval_scale.child("ours", truth, found) for _ in range(repeats)]
        yield row("scoring", scale, images, images * DETECTIONS, [(run["s"], run["mb"]) for run in runs])


def row(part, scale, images, objects, runs):
    seconds, mb = zip(*runs, strict=True)
    values = (part, scale, images, objects, f"{statistics.median(seconds):.3f}", f"{max(mb):.0f}")
    return dict(zip(COLUMNS, values, strict=True))


def read(rows):
    """Columns of numbers by part."""
    series = {}
    for entry in rows:
        columns = series.setdefault(entry["part"], {name: [] for name in COLUMNS[1:]})
        for name, values in columns.items():
            values.append(float(entry[name]))
    return series


def draw(series, path):
    with style.paper_style():
        figure, axes = style.plt.subplots(1, 2, figsize=(style.PAGE_WIDTH, 2.6), layout="constrained")
        for (part, columns), colour in zip(series.items(), style.CYCLE[2:], strict=False):
            text, marker = PARTS[part]
            seconds, mb = (exponent(columns["scale"], columns[name]) for name in ("seconds", "mb"))
            for axis, name in zip(axes, ("seconds", "mb"), strict=True):
                axis.plot(
                    columns["scale"],
                    columns[name],
                    marker=marker,
                    markersize=4,
                    color=colour,
                    label=f"{text}\nexponents: time {seconds:.2f}, memory {mb:.2f}",
                )
        scales = series["split"]["scale"]
        for axis, label in zip(axes, ("wall time, s", "peak memory, MB"), strict=True):
            axis.set(xscale="log", yscale="log", xlabel="share of COCO's size", ylabel=label)
            axis.set_xticks(scales, [f"1/{1 / scale:.0f}" if scale < 1 else "1" for scale in scales], minor=False)
            axis.xaxis.set_minor_locator(NullLocator())
            axis.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            axis.yaxis.set_major_formatter("{x:g}")
            axis.yaxis.set_minor_locator(NullLocator())
            axis.grid(axis="y")
        figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=len(series))
        figure.savefig(path, metadata=style.metadata("png", TITLE, CAPTION, "drawn annotations"))
        style.plt.close(figure)


if __name__ == "__main__":
    main()
