"""MLflow: one MLflow run for each training together with its evaluation. A mirror: nothing reads it back for a result.

The store is a SQLite file below `paths.home()` unless MLFLOW_TRACKING_URI names a server. A run is identified by its
dataset, name, seed and fingerprint: a resumed training continues its record, a repeated one does not add a second.
The status tells how far it came: RUNNING while training or evaluating, SCHEDULED when trained and not yet evaluated,
FINISHED after the evaluation, FAILED on an error, KILLED when interrupted.

The truth are files: the training log and pipeline.tracking.record. Each step is written there first; then the store
is brought to it. A store out of reach is reported once and holds the work up for at most a twentieth of its time; what
it lacks follows when it answers, with the next stage that tracks or with `python -m commands.track`. After any failure
the store is read back, and a point is sent with the same time again, so that it is stored exactly once.

Metrics are grouped with `/` as MLflow's page groups them: `train/loss_mask`, `novel/mask/AP`, `base/box/AP50`. A store
that has runs of versions before that keeps their names: bringing such a run up to date adds the new names beside them.
"""

import contextlib
import hashlib
import logging
import os
import time
from importlib import metadata

from pipeline import methods
from pipeline.artifacts import paths, working_copy
from pipeline.declaration import experiments
from pipeline.errors import Interrupted
from pipeline.redaction import redact
from pipeline.tracking import store, sync
from pipeline.tracking.record import Record

logger = logging.getLogger("pipeline.tracking")

PAUSE = 20  # the store is left alone this many times as long as it kept us
PAUSE_SECONDS = 5.0  # and at least this long after a failure


class Tracker:
    """The MLflow run of one training. Every method is safe to call when the store is out of reach."""

    def __init__(self, training, fingerprint, stage, tags=None):
        """Find or create the MLflow run of a pipeline.declaration.config.Training and mark it RUNNING.

        Args:
            fingerprint: pipeline.declaration.recipe.fingerprint of the training, or the one recorded in its checkpoint.
            stage: `train` or `evaluate`, recorded as a tag.
            tags: further tags, strings.
        """
        self.reached = False  # the store held all there was to hold, and every write since then succeeded
        self._client = None  # while reached
        self._known = set()  # (metric, step) that the store holds; of use while reached
        self._waiting = {}  # records by iteration that the store may lack
        self._next = 0.0  # when the store may be bothered again, on the monotonic clock
        self._told = False
        self.record = Record(training.dataset, training.name, training.seed, fingerprint)
        self.record.change(
            store=store.label(),
            status="RUNNING",
            parameters=_redacted(_parameters(training)),
            data={"digest": _digest(training.dataset), "split": training.split},
            tags=_redacted(
                (tags or {})
                | {
                    "dataset": training.dataset,
                    "direction": training.direction,
                    "stage": stage,
                    "mlflow.note.content": description(training),
                    "mlflow.source.name": f"stages/{stage}.py",
                    "mlflow.source.type": "LOCAL",
                    "mlflow.source.git.commit": working_copy.commit(),
                    "dvc_stage": os.environ.get("DVC_STAGE", ""),
                    "dvc_experiment": os.environ.get("DVC_EXP_NAME", ""),
                }
            ),
        )
        self.record.own(1.0)  # a `settle_all` of another process may have it for a moment
        self._push(settle=True)
        if self.reached:
            self._next = 0.0  # imports and the creation of a store are no measure of what a point costs

    def log_history(self, records):
        """Log the records of a log.jsonl that are not in the store yet, now or when the store can be had."""
        self._waiting.update((record["iter"], record) for record in records)
        if self.record.owned:
            self.record.times(self._waiting)
        self._push()

    def log_scores(self, scores):
        """Log one seed's `results.Scores` at its end: `novel/mask/AP`, ...; those of categories as an artifact."""
        now = int(time.time() * 1000)
        scores = {"metrics": scores.tracked(), "per_category": scores.per_category(), "time": now}
        self.record.change(scores=scores)

    def log_files(self, *files):
        """Log files as artifacts at its end."""
        self.record.change(files={path.name: str(path) for path in files})

    def end(self, status):
        """Set the final status of this stage: SCHEDULED (trained), FINISHED (evaluated), FAILED, KILLED.

        The store is read back and completed first. If that cannot be done now, `settle_all` does it later.
        """
        self.record.change(status=status, ended=int(time.time() * 1000))
        self._next = 0.0
        if self.record.own(sync.SETTLE_SECONDS + 2 * PAUSE_SECONDS):  # a `settle_all` may have it
            self._push(settle=True)
        else:
            logger.warning("%s is held by another process; `python -m commands.track --all` completes it", self.record)
        self.record.release()

    def _push(self, settle=False):
        """Bring the store to the files unless it is to be left alone; with `settle` by reading back what it holds."""
        if time.monotonic() < self._next or not self.record.own():
            return
        began = time.monotonic()
        try:
            if settle or not self.reached:
                self._client, self._known = sync.settle(self.record, self._waiting.values(), sync.SETTLE_SECONDS)
            else:
                points = sync.points(self.record, self._waiting.values(), self._known)
                sync.log_points(self._client, self.record.content["id"], points)
                self._known.update((point.key, point.step) for point in points)
        except Exception as error:  # whatever the store, its driver or the network chooses
            self.reached = False
            if not self._told:
                kept = paths.tracking_records() / self.record.content["dataset"]
                store.warn(error, f"the work goes on, its records are kept in {kept}")
            self._told = True
        else:
            if self._told:
                logger.info("MLflow store %s answers again and is complete", store.label())
            self.reached, self._told = True, False
            self._waiting.clear()
        now = time.monotonic()
        self._next = now + max(PAUSE * (now - began), 0 if self.reached else PAUSE_SECONDS)


@contextlib.contextmanager
def track(training, fingerprint, stage, status, tags=None):
    """Track a stage: yields a Tracker, ends it with `status`, with FAILED on an error, with KILLED when interrupted.

    Before and after, other trainings that the store lacks something of are brought up to date.
    """
    tracker = Tracker(training, fingerprint, stage, tags)
    if tracker.reached:
        sync.settle_all(sync.SETTLE_SECONDS)
    try:
        yield tracker
    except BaseException as error:
        stopped = isinstance(error, Interrupted) or not isinstance(error, Exception)
        tracker.end("KILLED" if stopped else "FAILED")
        raise
    tracker.end(status)
    if tracker.reached:
        sync.settle_all(sync.SETTLE_SECONDS)


def _redacted(texts):
    return {key: redact(text) for key, text in texts.items()}


def _digest(dataset):
    """Tells one content of a dataset from another: of its manifest, empty without one."""
    manifest = paths.manifest(dataset)
    return hashlib.sha256(manifest.read_bytes()).hexdigest()[:16] if manifest.exists() else ""


def description(training):
    """What a run is, in words."""
    sides = experiments.load().label_set(training.dataset).direction(training.direction)
    base, novel = (side if isinstance(side, str) else ", ".join(side) for side in (sides["base"], sides["novel"]))
    given = methods.task_of(training.method).supervision.items()
    what = " and ".join(
        f"{what}{only} of the {names} categories ({group})"
        for (group, what), names, only in zip(given, (base, novel), ("", " alone"), strict=False)
    )
    return (
        f"{methods.method(training.method).about}. Trained on {training.dataset} with {what or 'all labels'}, backbone "
        f"{training.backbone}, seed {training.seed}; then scored on its validation images."
    )


def _parameters(training):
    parameters = training.knobs.model_dump(exclude={"seeds"})
    parameters |= {
        "method": training.method,
        "dataset": training.dataset,
        "direction": training.direction,
        "backbone": training.backbone,
        "seed": training.seed,
        "batch_size": training.data["batch_size"],
    }
    for section in (
        training.schedule,
        training.optimisation,
        training.optimisation["optimizer"],
    ):
        parameters |= {key: value for key, value in section.items() if not isinstance(value, dict)}
    parameters |= {package: metadata.version(package) for package in ("torch", "mmdet", "mmcv-full")}
    return {key: str(value) for key, value in parameters.items()}
