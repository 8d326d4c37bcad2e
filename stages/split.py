"""python -m stages.split DIRECTION: write training annotations in which novel objects have boxes and no mask."""

import argparse

from pipeline.artifacts import dvc_lock, paths
from pipeline.cli import command
from pipeline.declaration import experiments
from pipeline.tasks.instances.split import split


@command
def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("direction")
    dvc_lock.keep_private()
    name, dataset = parser.parse_args().direction, experiments.chosen_dataset()
    direction = experiments.lookup(experiments.load().directions, name, "direction")
    table = paths.statistics(dataset, name, "csv").with_suffix("")
    split(paths.annotations(dataset, "train2017"), direction, paths.split(dataset, name), table, (dataset, name))


if __name__ == "__main__":
    main()
