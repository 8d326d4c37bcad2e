"""python -m tests.tracking.cost: what Tracker.log_history costs with `mlflow server` (SQLite) up, down and hanging."""

import os
import signal
import tempfile
import time
from pathlib import Path

from pipeline.tracking.tracker import Tracker
from tests.tracking.outage import MlflowServer
from tests.tracking.stand_in import training, write_record


def measure(tracker, steps, seconds):
    """Log a record, then wait `seconds`, for every step. Returns one line."""
    calls = []
    for step in steps:
        record = write_record("cost", step)
        began = time.perf_counter()
        tracker.log_history([record])
        calls.append(time.perf_counter() - began)
        time.sleep(seconds)
    calls.sort()
    share = sum(calls) / (sum(calls) + len(calls) * seconds)
    return (
        f"{len(calls)} calls, {seconds} s apart: median {1000 * calls[len(calls) // 2]:.1f} ms, "
        f"slowest {1000 * calls[-1]:.0f} ms, {share:.1%} of the time"
    )


def main():
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        server = MlflowServer(folder, f"sqlite:///{folder}/mlflow.db")
        server.start()
        os.environ |= {"MLFLOW_TRACKING_URI": server.address, "CONTRASTMASK_HOME": str(folder / "home")}
        try:
            tracker = Tracker(training("cost"), "cost", "train")
            print("up:     ", measure(tracker, range(1, 51), 1.0), flush=True)
            os.killpg(server.process.pid, signal.SIGSTOP)
            print("hanging:", measure(tracker, range(51, 251), 1.0), flush=True)
            server.kill()
            print("down:   ", measure(tracker, range(251, 301), 1.0), flush=True)
            server.start()
            began = time.perf_counter()
            tracker.end("SCHEDULED")
            print(f"complete in {time.perf_counter() - began:.1f} s after its return:", not tracker.record.pending)
        finally:
            server.kill()


if __name__ == "__main__":
    main()
