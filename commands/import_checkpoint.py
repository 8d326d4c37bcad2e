"""python -m commands.import_checkpoint FILE --out FILE [--method NAME] [--reverse]: convert a released checkpoint."""

import argparse
from pathlib import Path

from pipeline import methods
from pipeline.cli import command
from pipeline.trained import importing, naming


@command
def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("file", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    methods_with = ", ".join(methods.having("checkpoint_map"))
    parser.add_argument("--method", default="contrastmask", help=f"of {methods_with}; default: %(default)s")
    parser.add_argument("--reverse", action="store_true", help="from ours to the released code's names")
    args = parser.parse_args()
    backbone = naming.convert(args.method, args.file, args.out, args.reverse)
    print(f"{args.out}: {backbone}, every key mapped")
    if args.reverse and (note := naming.note_of_export(args.method, args.file)):
        print(f"note: {note}")
    if not args.reverse:
        config = importing.write_configuration(args.method, backbone, args.out)
        print(f"{config}: its configuration")


if __name__ == "__main__":
    main()
