"""How often does the interval of `commands.estimate` hold the true mask AP of novel classes?

    python -m benchmarks.estimate_truth [--cases 10] [--groups 3] [--iterations N] [--dataset generated]

A case parts the drawn classes by lot, half base, half novel. The latter are trained with boxes alone, and their masks
in validation, which the estimate does not look at, say what is true. Finished trainings are reused.
"""

import argparse
import random

import pandas as pd

from pipeline import estimate
from pipeline.artifacts import files, paths
from pipeline.datasets.prepare import prepare
from pipeline.declaration import experiments
from pipeline.reporting.expectation import Expectation


def sides(classes, seed):
    """(base, novel) classes, half of them each, by lot."""
    drawn = sorted(classes)
    random.Random(seed).shuffle(drawn)
    half = len(drawn) // 2
    return tuple(sorted(drawn[:half])), tuple(sorted(drawn[half:]))


def case(dataset, seed, groups, iterations):
    """One case, as a row of the table."""
    drawn = estimate.plan(dataset, seed=seed)
    classes = {*drawn.measured, *(name for group in drawn.groups for name in group)}
    plan = estimate.plan(dataset, groups=groups, iterations=iterations, seed=seed, sides=sides(classes, seed))
    found = Expectation(plan, estimate.measure(plan))
    row = {"seed": seed, "base": len(plan.base), "novel": len(plan.measured), "truth": found.truth}
    for name, interval in (("mean", found.novel), ("from boxes", found.from_boxes)):
        if interval:
            row |= {name: str(interval), f"{name} holds it": found.truth in interval}
    return row


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cases", type=int, default=10)
    parser.add_argument("--groups", type=int, default=3)
    parser.add_argument("--iterations", type=int, help="of a training (default: half of the schedule)")
    parser.add_argument("--dataset", default="generated", help="with masks for all validation objects")
    args = parser.parse_args()
    images = paths.images_root(args.dataset)
    out = paths.data(args.dataset)
    prepare(args.dataset, experiments.load().dataset(args.dataset), images_root=images, out_dir=out)
    rows = []
    for seed in range(args.cases):
        rows.append(case(args.dataset, seed, args.groups, args.iterations))
        table = pd.DataFrame(rows)
        files.write_text(estimate.folder(args.dataset) / "truth.csv", table.to_csv(index=False))
        print(table.to_markdown(index=False, floatfmt=".1f"), flush=True)
    for name in ("mean", "from boxes"):
        if f"{name} holds it" in table:
            print(
                f"{name}: the interval holds the truth in {int(table[f'{name} holds it'].sum())} of {len(table)} cases"
            )


if __name__ == "__main__":
    main()
