"""python -m stages.headline: write the few numbers that `dvc metrics show` and `dvc exp show` print."""

from pipeline import experiments, lockfile, runs
from pipeline.cli import command


@command
def main():
    lockfile.keep_private()
    runs.headline("current", experiments.chosen_dataset())


if __name__ == "__main__":
    main()
