"""python -m stages.headline RUN: write the few numbers that `dvc metrics show` and `dvc exp show` print."""

import argparse

from pipeline import runs
from pipeline.artifacts import dvc_lock
from pipeline.cli import command
from pipeline.declaration import experiments


@command
def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run")
    dvc_lock.keep_private()
    name = parser.parse_args().run
    runs.headline(name, experiments.dataset_of(name))


if __name__ == "__main__":
    main()
