"""python -m stages.compare: print the free run's experiments side by side, changed knobs and headline numbers."""

import argparse

from pipeline.cli import command
from pipeline.reporting.compare import comparison


@command
def main():
    argparse.ArgumentParser(description=__doc__).parse_args()
    print(comparison().to_markdown(index=False, disable_numparse=True))


if __name__ == "__main__":
    main()
