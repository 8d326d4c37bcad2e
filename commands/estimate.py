"""python -m commands.estimate DATASET: what mask AP to expect of classes without masks.

Takes the masks of base classes away in turn, trains, and scores what those classes then reach. The same command goes on
from what is finished. docs/estimate.md tells what the numbers mean.
"""

import argparse

from pipeline import estimate
from pipeline.artifacts import paths
from pipeline.cli import command
from pipeline.reporting import expectation


@command
def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("dataset", help="a declared one")
    how = parser.add_mutually_exclusive_group()
    how.add_argument("--groups", type=int, help="in how many groups classes lose their masks (default: 5 at most)")
    how.add_argument("--each", dest="groups", action="store_const", const=estimate.EACH, help="each class alone")
    parser.add_argument("--iterations", type=int, help="of a training (default: half of the schedule)")
    parser.add_argument("--seed", type=int, default=0, help="of groups and trainings (default %(default)s)")
    parser.add_argument("--method", default="contrastmask", help="of a run of the data set (default %(default)s)")
    args = parser.parse_args()
    plan = estimate.plan(args.dataset, args.method, args.groups, args.iterations, args.seed)
    found = expectation.Expectation(plan, estimate.measure(plan))
    folder = estimate.folder(args.dataset)
    print(expectation.write(found, estimate.length_of(plan), folder))
    print(f"Table, numbers and figure: {folder.relative_to(paths.ROOT)}")


if __name__ == "__main__":
    main()
