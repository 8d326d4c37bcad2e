"""python -m commands.verify [--method NAME] [--golden DIR]: compare a method with numbers of its authors' code."""

import argparse
from pathlib import Path

import torch

from pipeline import methods
from pipeline.artifacts import paths
from pipeline.cli import command
from pipeline.errors import ExperimentError


@command
def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--method", default="contrastmask", help="a folder of pipeline/methods; default: %(default)s")
    parser.add_argument("--golden", type=Path, default=paths.ROOT / "tests/golden", help="directory of fixtures")
    args = parser.parse_args()
    golden = methods.required(args.method, "golden")
    torch.set_num_threads(1)
    failed = total = 0
    worst, margins = 0.0, {}
    for check in golden.verify(args.golden):
        print(check, flush=True)
        total += 1
        failed += not check.ok
        worst = max(worst, check.relative)
        margins[check.fixture] = max(margins.get(check.fixture, check), check, key=lambda check: check.margin)
    for check in margins.values():
        print(f"worst of {check.fixture}: {check.array}, {check.margin:.3f} of its tolerance")
    print(f"checks={total} failed={failed} worst_relative={worst:.2e}")
    if failed:
        raise ExperimentError(f"{failed} of {total} checks are beyond tolerance")


if __name__ == "__main__":
    main()
