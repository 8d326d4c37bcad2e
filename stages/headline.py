"""python -m stages.headline: write the few numbers that `dvc metrics show` and `dvc exp show` print."""

from pipeline import runs
from pipeline.artifacts import dvc_lock
from pipeline.cli import command
from pipeline.declaration import experiments


@command
def main():
    dvc_lock.keep_private()
    runs.headline("current", experiments.chosen_dataset())


if __name__ == "__main__":
    main()
