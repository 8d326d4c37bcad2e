"""python -m benchmarks.complete_quality [RUN ...]: masks from boxes on drawn validation data, over runs and seeds.

The masks of the validation objects are hidden; each trained run makes them from box and class, and so do the filled box
and GrabCut. Rows are of the classes that a run was trained on with masks (base) and with boxes alone (novel): mean
overlap with the truth (IoU), and its standard deviation over the seeds of a run, over objects for what has no seed.
"+grabcut": GrabCut that begins with the run's masks (`complete --by refined`).
`rank` is Spearman's correlation of confidence and overlap, which says what the order of the page is worth.
"""

import argparse

import numpy as np
import pandas as pd

from pipeline.declaration import config, experiments, subsets
from pipeline.errors import ExperimentError
from pipeline.inference import fillers, models, options, quality
from pipeline.inference.complete import Annotations

REFINED = "+grabcut"
RUNS = ("mask_rcnn_r50_1x_nonvoc2voc", "cam_r50_1x_nonvoc2voc", "contrastmask_r50_1x_nonvoc2voc")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("runs", nargs="*", default=RUNS)
    parser.add_argument("--dataset", help="default: the chosen one")
    parser.add_argument("--most", type=options.count, help="validation images, the first ones")
    args = parser.parse_args()
    dataset = args.dataset or experiments.chosen_dataset()
    subset = subsets.validation(dataset)
    annotations = Annotations(subset.annotations)
    declared = experiments.load()
    direction = declared.run(args.runs[0]).direction
    groups = dict(zip(("base", "novel"), declared.label_set(dataset).base_and_novel(direction), strict=True))
    makers = {"filled_box": fillers.FilledBox(), "grabcut": fillers.GrabCut()} | trained(args.runs, dataset)
    classes = {*groups["base"], *groups["novel"]}
    found = quality.overlaps(annotations, subset.images, makers, classes, args.most)
    found["run"] = found["by"].str.partition(" ")[0]
    rows = []
    for run, of_run in found.groupby("run", sort=False):
        row = {"by": run, "seeds": of_run["by"].nunique() if run.removesuffix(REFINED) in args.runs else 0}
        for group, names in groups.items():
            of_group = of_run[of_run["class"].isin(names)]
            seeds = of_group.groupby("by")["iou"].mean()
            spread = of_group["iou"].std(ddof=1) if not row["seeds"] else seeds.std(ddof=1)
            row |= {
                f"{group} objects": len(of_group) // len(seeds),
                f"{group} IoU": seeds.mean(),
                f"{group} sd": spread,
            }
        rows.append(row)
    table = pd.DataFrame(rows).sort_values("novel IoU", ascending=False, ignore_index=True)
    print(table.replace(np.nan, None).to_markdown(index=False, floatfmt=".3f", missingval="–"))
    best = table[table["seeds"] > 0]["novel IoU"].max() if (table["seeds"] > 0).any() else np.nan
    print(f"best_run={best:.3f} best_untrained={table[table['seeds'] == 0]['novel IoU'].max():.3f}")


def trained(runs, dataset):
    """{`run seed`: filler} of the seeds that are trained; the others are named."""
    declared, found = experiments.load(), {}
    for run in runs:
        for seed in config.load_knobs(declared.run(run)).seeds:
            try:
                found[f"{run} {seed}"] = model = fillers.Model(models.load(run, seed, dataset))
                found[f"{run}{REFINED} {seed}"] = fillers.Refined(model)
            except ExperimentError as error:
                print(f"left out: {error}")
    return found


if __name__ == "__main__":
    main()
