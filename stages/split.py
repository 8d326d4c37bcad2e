"""python -m stages.split DIRECTION [TASK]: write training annotations in which novel objects hide their masks."""

import argparse

from pipeline import tasks
from pipeline.artifacts import dvc_lock, paths
from pipeline.cli import command
from pipeline.declaration import experiments, subsets


@command
def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("direction")
    parser.add_argument("--dataset", help="a declared one; default: that of params.yaml")
    parser.add_argument("task", nargs="?", default=tasks.FIRST, help="a folder of pipeline/tasks")
    dvc_lock.keep_private()
    arguments = parser.parse_args()
    name, dataset = arguments.direction, arguments.dataset or experiments.chosen_dataset()
    labels = experiments.load().label_set(dataset)
    if name not in labels.directions:
        experiments.selected()  # says if dvc.yaml is of another label set
    first = arguments.task == tasks.FIRST
    table = paths.statistics(dataset, name, "csv").with_suffix("") if first else None
    hide, folder = tasks.task(arguments.task).hide, paths.split(dataset, tasks.split_of(arguments.task, name))
    hide(subsets.train(dataset).annotations, labels, name, folder, table, (dataset, name))


if __name__ == "__main__":
    main()
