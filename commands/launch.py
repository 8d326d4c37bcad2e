"""python -m commands.launch: make all runs of the chosen tables, several at a time, then the report."""

import argparse

from pipeline.artifacts import dvc_lock
from pipeline.cli import command
from pipeline.launching.launch import LAUNCHERS, launch, report


@command
def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--jobs", type=int, help="at a time (default: one for each GPU, else core; Slurm: no limit)")
    parser.add_argument("--launcher", choices=LAUNCHERS, help="where they run (default: as machine.yaml says)")
    parser.add_argument("--report", action="store_true", help="only build the report from what there is")
    args = parser.parse_args()
    dvc_lock.keep_private()
    if args.report:
        report()
    else:
        launch(args.jobs, launcher=args.launcher)


if __name__ == "__main__":
    main()
