"""python -m tests.tracking.writer NAME STEPS SECONDS END: a training and its evaluation as far as tracking sees them.

END: `evaluate` to the end, `train` only, or `fail` in the evaluation. Prints how long the calls took.
"""

import json
import sys
import time

from pipeline.tracking.tracker import track
from tests.tracking.stand_in import SCORES, training, write_record


def main():
    name, steps, seconds, end = sys.argv[1], int(sys.argv[2]), float(sys.argv[3]), sys.argv[4]
    job, calls = training(name), []
    with track(job, name, "train", "SCHEDULED") as tracker:
        print("started", flush=True)
        for step in range(1, steps + 1):
            record = write_record(name, step)
            began = time.perf_counter()
            tracker.log_history([record])
            calls.append(time.perf_counter() - began)
            time.sleep(seconds)
        tracker.log_history(tracker.record.log())
    if end != "train":
        with track(job, name, "evaluate", "FINISHED") as tracker:
            if end == "fail":
                raise RuntimeError("as asked")
            tracker.log_scores(SCORES)
    calls.sort()
    print(
        json.dumps(
            {
                "median_ms": 1000 * calls[len(calls) // 2],
                "slowest_ms": 1000 * calls[-1],
                "share": sum(calls) / (sum(calls) + steps * seconds),
            }
        )
    )


if __name__ == "__main__":
    main()
