"""python -m stages.priors METHOD DIRECTION: write what a method learns from the base masks of a split beforehand."""

import argparse

from pipeline import methods
from pipeline.artifacts import paths
from pipeline.cli import command
from pipeline.declaration import experiments


@command
def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("method", help="a folder of pipeline/methods")
    parser.add_argument("direction")
    parser.add_argument("--dataset", help="a declared one; default: that of params.yaml")
    arguments = parser.parse_args()
    method, direction = arguments.method, arguments.direction
    dataset = arguments.dataset or experiments.chosen_dataset()
    learning = methods.required(method, "priors")
    learning.make(dataset, direction, paths.learnt_priors(dataset, methods.priors_key(method, direction)))


if __name__ == "__main__":
    main()
