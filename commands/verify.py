"""python -m commands.verify [--golden DIR]: compare this implementation with numbers of the authors' released code."""

import argparse
from pathlib import Path

import torch

from pipeline.artifacts import paths
from pipeline.cli import command
from pipeline.errors import ExperimentError
from pipeline.methods.contrastmask.golden import verify


@command
def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--golden", type=Path, default=paths.ROOT / "tests/golden", help="directory of fixtures")
    torch.set_num_threads(1)
    failed = total = 0
    worst, margins = 0.0, {}
    for check in verify(parser.parse_args().golden):
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
