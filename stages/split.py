"""python -m stages.split DIRECTION: write training annotations in which novel objects have boxes and no mask."""

import argparse

from pipeline import experiments, lockfile, paths
from pipeline.cli import command
from pipeline.datasets.split import split


@command
def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("direction")
    lockfile.keep_private()
    name, dataset = parser.parse_args().direction, experiments.chosen_dataset()
    direction = experiments.lookup(experiments.load().directions, name, "direction")
    table = paths.statistics(dataset, name, "csv").with_suffix("")
    split(paths.annotations(dataset, "train2017"), direction, paths.split(dataset, name), table, (dataset, name))


if __name__ == "__main__":
    main()
