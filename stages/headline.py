"""python -m stages.headline: write the few numbers that `dvc metrics show` and `dvc exp show` print."""

from pipeline import experiments, runs
from pipeline.cli import command


@command
def main():
    runs.headline("current", experiments.chosen_dataset())


if __name__ == "__main__":
    main()
