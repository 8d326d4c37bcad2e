"""python -m commands.compare: print the free run's experiments side by side, changed knobs and headline numbers."""

import argparse

from pipeline.artifacts import dvc_lock
from pipeline.cli import command
from pipeline.declaration import experiments
from pipeline.reporting.compare import comparison, free_task


@command
def main():
    argparse.ArgumentParser(description=__doc__).parse_args()
    dvc_lock.keep_private()
    print(comparison().to_markdown(index=False, disable_numparse=True))
    print(f"\n{free_task().main_metric.in_unit} on {experiments.chosen_dataset()}, the mean over the seeds.")


if __name__ == "__main__":
    main()
