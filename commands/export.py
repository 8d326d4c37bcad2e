"""python -m commands.export RUN_OR_CHECKPOINT OUT.pt: say why a detector cannot be exported to TorchScript or ONNX."""

import argparse
from pathlib import Path

from pipeline.cli import command
from pipeline.trained import exporting, loading


@command
def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", metavar="RUN_OR_CHECKPOINT", help="a trained run or a checkpoint of any origin")
    parser.add_argument("out", type=Path)
    args = parser.parse_args()
    exporting.refuse(loading.load_model(args.model).model, args.out)


if __name__ == "__main__":
    main()
