"""python -m commands.verify [--method NAME] [--golden DIR]: compare a method with numbers of its authors' code."""

import argparse
from pathlib import Path

import torch

from pipeline import methods
from pipeline.artifacts import paths
from pipeline.cli import command
from pipeline.errors import ExperimentError
from pipeline.methods.shared.golden import Tally

OURS, TESTS = "contrastmask", paths.ROOT / "tests"


@command
def main():
    parser = argparse.ArgumentParser(description=__doc__, epilog="Files of different methods have the same names.")
    parser.add_argument(
        "--method", default=OURS, help=f"of {', '.join(methods.having('golden'))}; default: %(default)s"
    )
    parser.add_argument("--golden", type=Path, help="directory of its fixtures; default: those in tests/")
    args = parser.parse_args()
    golden, tally = methods.required(args.method, "golden"), Tally()
    folder = TESTS / ("golden" if args.method == OURS else f"golden_comparison/{args.method}")
    torch.set_num_threads(1)
    for check in golden.verify(args.golden or folder):
        print(check, flush=True)
        tally.add(check)
    print(tally)
    if tally.failed:
        raise ExperimentError(f"{tally.failed} of {tally.checks} checks are beyond tolerance")


if __name__ == "__main__":
    main()
