"""A made-up seed study, for the tests of what reads one."""

import pandas as pd

from pipeline.artifacts import paths

DATA = ("toy1", "toy2", "toy3")
AP = "novel_mask_mAP"


def rows(numbers, phase="held_out", column=AP):
    """Lines of runs.csv: {run: {(dataset, seed): number}}."""
    return [
        {
            "phase": phase,
            "run": run,
            "label": f"label of {run}",
            "dataset": dataset,
            "data_seed": 7,
            "seed": seed,
            "commit": "0123456789abcdef",
            column: value,
        }
        for run, values in numbers.items()
        for (dataset, seed), value in values.items()
    ]


def grid(*values):
    """Values of three data sets and as many seeds as it takes, data set by data set."""
    each = len(values) // 3
    return {(name, seed): values[i * each + seed] for i, name in enumerate(DATA) for seed in range(each)}


def write(lines):
    paths.study().parent.mkdir(parents=True, exist_ok=True)
    pd.DataFrame(lines).to_csv(paths.study(), index=False)
