"""python -m stages.train RUN: train every seed of a declared run on the chosen dataset."""

import argparse

from pipeline import runs
from pipeline.cli import command
from pipeline.declaration import experiments


@command
def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run")
    runs.train(parser.parse_args().run, experiments.chosen_dataset())


if __name__ == "__main__":
    main()
