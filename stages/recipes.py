"""python -m stages.recipes: write what the numbers of every chosen run depend on, so that DVC re-trains just those."""

import argparse

from pipeline.cli import command
from pipeline.declaration import experiments, recipe


@command
def main():
    argparse.ArgumentParser(description=__doc__).parse_args()
    recipe.write(experiments.chosen_dataset())


if __name__ == "__main__":
    main()
