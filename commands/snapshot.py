"""python -m commands.snapshot: copy the finished report of the embedded default to reports/snapshot/."""

import argparse

from pipeline.cli import command
from pipeline.reporting import snapshot


@command
def main():
    argparse.ArgumentParser(description=__doc__).parse_args()
    snapshot.take()
    print("written: reports/snapshot/ and the first screen of README.md; look at `git diff`, then commit")


if __name__ == "__main__":
    main()
