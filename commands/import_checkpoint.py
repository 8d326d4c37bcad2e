"""python -m commands.import_checkpoint FILE --out FILE [--reverse]: convert a checkpoint of the released code."""

import argparse
from pathlib import Path

from pipeline.cli import command
from pipeline.methods.contrastmask.released_checkpoint import convert


@command
def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("file", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--reverse", action="store_true", help="from ours to the released code's names")
    args = parser.parse_args()
    backbone = convert(args.file, args.out, args.reverse)
    print(f"{args.out}: {backbone}, every key mapped")


if __name__ == "__main__":
    main()
