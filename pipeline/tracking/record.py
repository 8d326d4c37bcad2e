"""What MLflow is to hold of one training, kept in files: written before MLflow is told, so that no outage loses it.

    scratch/tracking/<dataset>/<run>_seed<seed>_<fingerprint>
        .json     identity, tags, parameters, scores, artifacts and status
        .times    a line `<iteration> <milliseconds>` for each record of the training log
        .pending  empty; there until MLflow was found to hold all of it
        .lock     held by the process that tracks the training; the system frees it when that process is gone

The losses themselves are read from the log of the training.
"""

import contextlib
import time

from pipeline.artifacts import files, locks, paths
from pipeline.artifacts.training_log import read_log

IDENTITY = ("dataset", "run", "seed", "fingerprint")


class Record:
    """The files of one training. Changes are kept in memory until this process owns them.

    Attributes:
        content: what the .json holds; as long as the record is not owned, the changes alone.
        owned: whether this process holds the lock.
    """

    def __init__(self, dataset, run, seed, fingerprint):
        self._stem = paths.tracking_records() / dataset / f"{run}_seed{seed}_{fingerprint}"
        self._stem.parent.mkdir(parents=True, exist_ok=True)
        self._lock = locks.lock_file(self._file(".lock"))
        self._times = {}
        self.owned = False
        self.content = dict(zip(IDENTITY, (dataset, run, seed, fingerprint), strict=True))

    @classmethod
    def found(cls, pending_only):
        """Records on this machine, those that MLflow is not known to hold first. None of them is owned."""
        records = []
        for path in sorted(paths.tracking_records().glob("*/*.pending" if pending_only else "*/*.json")):
            content = files.read_json(path.with_suffix(".json")) or {}
            if all(key in content for key in IDENTITY):
                records.append(cls(*(content[key] for key in IDENTITY)))
                records[-1].content = content
        return sorted(records, key=lambda record: not record.pending)

    def _file(self, suffix):
        return self._stem.with_name(self._stem.name + suffix)

    def __str__(self):
        return str(self._file(".json"))

    @property
    def exists(self):
        return self._file(".json").exists()

    @property
    def pending(self):
        return self._file(".pending").exists()

    def own(self, seconds=0.0):
        """Become the one process that may write this record and its MLflow run. Returns whether it is."""
        if not self.owned:
            if not locks.take(self._lock, f"the tracking record {self}", seconds):
                return False
            self.owned = True
            changes, self.content = self.content, files.read_json(self._file(".json")) or {}
            self._times = self._read_times()
            if changes:
                self.change(**changes)
        return True

    def release(self):
        if self.owned:
            self.owned = False
            self._lock.release()

    def change(self, **entries):
        """Write entries: a dictionary is merged into the one that is there, anything else replaces it."""
        for key, value in entries.items():
            self.content[key] = self.content.get(key, {}) | value if isinstance(value, dict) else value
        if self.owned:
            self._file(".pending").touch()  # first: killed in between, it is looked at in vain, not overlooked
            files.write_json(self._file(".json"), self.content, durable=True)

    def settled(self):
        """MLflow holds all of it."""
        self._file(".pending").unlink(missing_ok=True)

    def log(self):
        """Records of the training log; none where its folder was removed or never was on this machine."""
        path = paths.scratch(self.content["fingerprint"]) / "log.jsonl"
        return read_log(path) if path.exists() else []

    def times(self, iterations):
        """{iteration: when it was logged, ms}. One time for ever, so that MLflow knows a repeated point as the same."""
        new = [iteration for iteration in iterations if iteration not in self._times]
        if new:
            now = int(time.time() * 1000)
            with self._file(".times").open("a") as file:
                file.writelines(f"{iteration} {now}\n" for iteration in new)
            self._times.update(dict.fromkeys(new, now))
        return self._times

    def _read_times(self):
        times = {}
        with contextlib.suppress(FileNotFoundError):
            for line in self._file(".times").read_text().splitlines():
                words = line.split()
                if len(words) == 2 and all(word.isdigit() for word in words):  # a kill may leave half a line
                    times.setdefault(int(words[0]), int(words[1]))
        return times

    def last_sign(self):
        """When the process that tracked this training last wrote something, ms."""
        written = [self._file(".json"), self._file(".times"), *paths.scratch(self.content["fingerprint"]).glob("*")]
        return int(max((path.stat().st_mtime for path in written if path.exists()), default=time.time()) * 1000)
