"""python -m stages.recipes [DATASET]: write what the numbers of every chosen run depend on.

So DVC re-trains just those that a change concerns.
"""

import argparse

from pipeline.cli import command
from pipeline.declaration import experiments, recipe


@command
def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("dataset", nargs="?", help="a declared one; default: that of params.yaml")
    recipe.write(parser.parse_args().dataset or experiments.chosen_dataset())


if __name__ == "__main__":
    main()
