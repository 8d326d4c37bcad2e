"""python -m stages.pretrain BACKBONE: write the initial weights of a backbone on the chosen dataset."""

import argparse

from pipeline import experiments, initial_weights
from pipeline.cli import command


@command
def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("backbone")
    initial_weights.prepare(parser.parse_args().backbone, experiments.chosen_dataset())


if __name__ == "__main__":
    main()
