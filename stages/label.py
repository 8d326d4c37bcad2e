"""python -m stages.label RUN: label the training images with every seed of a trained run, for others to train on."""

import argparse

from pipeline import runs
from pipeline.cli import command
from pipeline.declaration import experiments


@command
def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run")
    name = parser.parse_args().run
    runs.label(name, experiments.dataset_of(name))


if __name__ == "__main__":
    main()
