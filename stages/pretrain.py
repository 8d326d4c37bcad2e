"""python -m stages.pretrain KEY: write the initial weights of a detector and a backbone on a dataset."""

import argparse

from pipeline import runs
from pipeline.cli import command
from pipeline.declaration import experiments
from pipeline.trained import naming, starting
from pipeline.training import initial_weights


@command
def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("key", help="a name under `weights:` in pipeline/selection.yaml, such as r50")
    parser.add_argument("--dataset", help="a declared one; default: that of params.yaml")
    arguments = parser.parse_args()
    key, dataset = arguments.key, arguments.dataset or experiments.chosen_dataset()
    runs.ensure_images(dataset)
    naming.require_declared(dataset)
    (starting if starting.starts(dataset) else initial_weights).prepare(key, dataset)


if __name__ == "__main__":
    main()
