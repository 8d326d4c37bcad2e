"""python -m stages.download [DATASET]: fetch or draw a dataset, verify it, write annotations and manifest.

Without a name it is the chosen one. What is there and as it should be is left alone; what lacks is brought.
"""

import argparse

from pipeline.artifacts import paths
from pipeline.cli import command
from pipeline.datasets.prepare import prepare
from pipeline.declaration import experiments


@command
def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("dataset", nargs="?", help="a declared one; default: that of params.yaml")
    name = parser.parse_args().dataset or experiments.chosen_dataset()
    prepare(name, experiments.load().dataset(name), images_root=paths.images_root(name), out_dir=paths.data(name))


if __name__ == "__main__":
    main()
