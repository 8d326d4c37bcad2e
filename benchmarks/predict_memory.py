"""python -m benchmarks.predict_memory RUN_OR_CHECKPOINT IMAGES...: do more images take more memory in commands.predict?

The images are linked under as many names as are asked for. Peak memory of the process and its children in MB
(`measuring.watched` says how), and seconds, of each number; the last line has the growth from the first to the last
number.
"""

import argparse
import os
import sys
import tempfile
import time
from pathlib import Path

from benchmarks import measuring
from pipeline.inference import options, pictures


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", metavar="RUN_OR_CHECKPOINT")
    parser.add_argument("images", nargs="+")
    parser.add_argument("--numbers", nargs="+", type=options.count, default=[250, 2000], help="of images")
    parser.add_argument("--score", type=options.fraction, default=0.5)
    args = parser.parse_args()
    found = list(pictures.find(args.images).values())
    peaks = []
    for number in args.numbers:
        with tempfile.TemporaryDirectory() as folder:
            photos = Path(folder) / "photos"
            photos.mkdir()
            for k in range(number):
                os.symlink(found[k % len(found)], photos / f"{k:06d}{found[k % len(found)].suffix}")
            start = time.perf_counter()
            further = ["--out", f"{folder}/out", "--score", str(args.score)]
            command = [sys.executable, "-m", "commands.predict", args.model, str(photos), *further]
            said, peak = measuring.watched(command)
        peaks.append(peak)
        print(f"{said.partition(':')[0]}: {peak:.0f} MB, {time.perf_counter() - start:.0f} s", flush=True)
    print(f"images={args.numbers[0]}..{args.numbers[-1]} grown_mb={peaks[-1] - peaks[0]:.0f}")


if __name__ == "__main__":
    main()
