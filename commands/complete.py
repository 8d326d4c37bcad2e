"""python -m commands.complete RUN_OR_CHECKPOINT --images DIR --annotations FILE --out FILE: masks for boxes."""

import argparse
from pathlib import Path

from pipeline.cli import command
from pipeline.inference import completing, options


@command
def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "model", nargs="?", metavar="RUN_OR_CHECKPOINT", help="a declared run that is trained, or a file"
    )
    parser.add_argument("--images", type=Path, help="folder that the file names of the annotations are below")
    parser.add_argument("--annotations", type=Path, help="COCO file; with --compare default: the run's validation")
    parser.add_argument("--out", type=Path, help="COCO file to write; its page lies beside it")
    parser.add_argument("--by", nargs="+", choices=completing.ROWS, help="what makes masks; default: model")
    parser.add_argument("--segmenter", nargs="+", type=Path, metavar="FILE", help="ONNX, for --by sam")
    parser.add_argument("--classes", nargs="+", help="complete these alone; with --compare default: the novel ones")
    parser.add_argument("--compare", action="store_true", help="hide known masks and print how well each --by does")
    parser.add_argument("--most", type=options.count, help="images to compare on, the first ones")
    parser.add_argument("--keep-rectangles", action="store_true", help="a polygon that is its box is a mask")
    parser.add_argument("--form", choices=("polygons", "rle"), default="polygons", help="of new masks")
    parser.add_argument("--seed", type=int, help="of the run; default: its first")
    parser.add_argument("--dataset", help="that the run was trained on; default: the chosen one")
    parser.add_argument("--force", action="store_true", help="replace --out if it exists")
    print(completing.compared(args) if (args := parser.parse_args()).compare else completing.completed(args))


if __name__ == "__main__":
    main()
