"""Kill `commands.predict` at random moments, many times: nothing is predicted twice, and nothing is lost.

python -m benchmarks.predict_kills RUN_OR_CHECKPOINT IMAGES... [--kills 20]

Each case predicts images into a new folder, in a process that gets SIGKILL at a moment drawn from the case's seed:
between its start and its end, while it detects or while it writes what it found. The same call goes on, and is killed
again with probability 1/2. A case passes if no image is predicted again whose detections were saved, what was saved
stays byte for byte, and the folder at the end is that of an uninterrupted prediction, without a file more. Processes
are forked from one that has loaded the detector, because that would take most of the time; the kill itself and
everything after it are real.
"""

import argparse
import hashlib
import os
import random
import signal
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from pipeline.inference import models, options, outputs, pictures, predict

# isort: split

import torch

from pipeline.tasks.instances import prediction

PATIENCE = 600  # seconds for one attempt
SEEN = "seen"  # beside the folder of the results: a line for each image that was predicted


def attempt(detector, found, out, score, kill_after=None):
    """Predict in a process of its own, kill it after some seconds. Returns 'killed', 'done' or 'failed'."""
    child = os.fork()
    if not child:
        output = os.open(out.parent / "output.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(output, 1)
        os.dup2(output, 2)
        seen = os.open(out.parent / SEEN, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        records, code = prediction._records, 1

        def noted(image, *detected):
            os.write(seen, f"{image}\n".encode())
            return records(image, *detected)

        prediction._records = noted
        try:
            with predict.predicted(detector, found, out, score, 1) as lines:
                outputs.write(lines, found, [], detector, out, score, detector.names)
            code = 0
        finally:
            os._exit(code)
    began = time.monotonic()
    while time.monotonic() - began < PATIENCE:
        if kill_after is not None and time.monotonic() - began >= kill_after:
            os.kill(child, signal.SIGKILL)
            kill_after = None
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            return "killed" if os.WIFSIGNALED(status) else "failed" if os.WEXITSTATUS(status) else "done"
        time.sleep(0.002)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return "failed"


def saved(out):
    """The whole lines of the saved detections, without the header."""
    path = out / predict.JOURNAL
    return path.read_bytes().split(b"\n")[1:-1] if path.exists() else []


def content(out):
    """{path below the folder: digest} of all files but the lock."""
    files = [path for path in out.rglob("*") if path.is_file() and path.suffix != ".lock"]
    return {str(path.relative_to(out)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def case(seed, detector, found, score, seconds, expected, counts):
    """Kill and continue one prediction until it ends. Returns the number of kills, or raises AssertionError."""
    drawn, kills = random.Random(seed), 0
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "out"
        while True:
            before, looked = saved(out), Counter(numbers(out))
            ended = attempt(detector, found, out, score, drawn.uniform(0, seconds) if again(drawn, kills) else None)
            counts[ended] += 1
            assert ended != "failed", f"seed {seed}: an attempt ended with an error: {log(out)}"
            assert saved(out)[: len(before)] == before, f"seed {seed}: saved detections were lost after {kills} kills"
            twice = [number for number in (Counter(numbers(out)) - looked) if number <= len(before)]
            assert not twice, f"seed {seed}: images {twice} were saved and predicted again"
            if ended == "done":
                assert content(out) == expected, f"seed {seed}: other files after {kills} kills"
                return kills
            kills += 1
            counts["killed while it wrote results"] += len(saved(out)) == len(found)
            counts["killed with detections to go on from"] += 0 < len(saved(out)) < len(found)


def again(drawn, kills):
    return kills == 0 or drawn.random() < 0.5


def numbers(out):
    """Ids of the images that were predicted so far, again for each time."""
    path = out.parent / SEEN
    return [int(line) for line in path.read_text().split()] if path.exists() else []


def log(out):
    return (out.parent / "output.log").read_text()[-2000:]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", metavar="RUN_OR_CHECKPOINT")
    parser.add_argument("images", nargs="+")
    parser.add_argument("--score", type=options.fraction, default=0.5)
    parser.add_argument("--kills", type=options.count, default=20, help="at least so many; seeds 0, 1, ... are used")
    args = parser.parse_args()
    torch.set_num_threads(1)
    detector = models.load(args.model)
    found, _ = pictures.measured(pictures.find(args.images))
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "out"
        assert attempt(detector, found, out, args.score) == "done", log(out)
        expected = content(out)
    seconds = time.monotonic() - began
    print(f"uninterrupted: {len(found)} images, {len(expected)} files, {seconds:.1f} s", flush=True)
    kills, seed, failures, counts = 0, 0, [], Counter()
    while kills < args.kills:
        try:
            kills += case(seed, detector, found, args.score, seconds, expected, counts)
        except AssertionError as error:
            failures.append(error)
            print(error, flush=True)
            kills += 1
        seed += 1
    words = ", ".join(f"{what}: {count}" for what, count in sorted(counts.items()))
    print(f"{words}; {time.monotonic() - began:.0f} s")
    print(f"kills={kills} cases={seed} failed={len(failures)}")
    sys.exit(bool(failures))


if __name__ == "__main__":
    main()
