"""python -m stages.evaluate RUN: predict and score every seed of a trained run on the chosen dataset."""

import argparse

from pipeline import runs
from pipeline.cli import command
from pipeline.declaration import experiments


@command
def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run")
    runs.evaluate(parser.parse_args().run, experiments.chosen_dataset())


if __name__ == "__main__":
    main()
