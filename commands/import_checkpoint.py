"""python -m commands.import_checkpoint FILE --out FILE [--method NAME] [--reverse]: convert a released checkpoint."""

import argparse
from pathlib import Path

from pipeline import methods
from pipeline.cli import command


@command
def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("file", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--method", default="contrastmask", help="a folder of pipeline/methods; default: %(default)s")
    parser.add_argument("--reverse", action="store_true", help="from ours to the released code's names")
    args = parser.parse_args()
    backbone = methods.required(args.method, "checkpoint_map").convert(args.file, args.out, args.reverse)
    print(f"{args.out}: {backbone}, every key mapped")


if __name__ == "__main__":
    main()
