"""python -m commands.plan: what the chosen runs would cost in GPU-hours, wall time and disk, before any is started."""

import argparse

from pipeline.cli import command
from pipeline.declaration import experiments
from pipeline.launching import settings
from pipeline.launching.plan import show


@command
def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--gpus", type=int, default=1, help="GPUs in all, over all nodes (default 1)")
    parser.add_argument("--images-per-second", type=float, help="training throughput of a GPU, where none was measured")
    args = parser.parse_args()
    settings.load()  # told now, not when it is needed
    show(experiments.chosen_dataset(), args.gpus, args.images_per_second)


if __name__ == "__main__":
    main()
