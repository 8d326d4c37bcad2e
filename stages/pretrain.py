"""python -m stages.pretrain BACKBONE: write the initial weights of a backbone on the chosen dataset."""

import argparse

from pipeline import runs
from pipeline.cli import command
from pipeline.declaration import experiments
from pipeline.training import initial_weights


@command
def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("backbone")
    backbone, dataset = parser.parse_args().backbone, experiments.chosen_dataset()
    runs.ensure_images(dataset)
    initial_weights.prepare(backbone, dataset)


if __name__ == "__main__":
    main()
