"""MLflow: one MLflow run for each training together with its evaluation. A mirror: nothing reads it back for a result.

The store is a SQLite file below `paths.home()` unless MLFLOW_TRACKING_URI names a server. A run is identified by its
dataset, name, seed and fingerprint: a resumed training continues its record, a repeated one does not add a second.
The status tells how far it came: RUNNING while training or evaluating, SCHEDULED when trained and not yet evaluated,
FINISHED after the evaluation, FAILED on an error. An unreachable store is reported once and never stops the work.
"""

import contextlib
import functools
import logging
import os
import re
import subprocess
import time
from importlib import metadata
from urllib.parse import urlsplit

from filelock import FileLock

from pipeline import paths

logger = logging.getLogger("pipeline.tracking")

for _name, _value in {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2", "MLFLOW_HTTP_REQUEST_TIMEOUT": "10"}.items():
    os.environ.setdefault(_name, _value)  # mlflow's own defaults wait for an absent server for minutes


def store_uri():
    """The tracking URI: MLFLOW_TRACKING_URI, or the local SQLite store."""
    return os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{paths.tracking_store()}"


def is_local():
    return store_uri().startswith("sqlite:")


def git_commit():
    """Commit of the working copy, with `-dirty` appended when tracked files differ from it; `unknown` outside git."""

    def git(*args):
        return subprocess.run(["git", *args], cwd=paths.ROOT, capture_output=True, text=True, check=True).stdout.strip()

    try:
        return git("rev-parse", "HEAD") + ("-dirty" if git("status", "--porcelain", "--untracked-files=no") else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def connect(experiment):
    """Return (client, experiment id), creating store and experiment if need be.

    The local store is created under a lock, since two first writers would both create its tables.
    """
    import mlflow  # takes seconds; whoever tracks nothing should not pay for it

    store = paths.tracking_store()
    store.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{store}.lock") if is_local() else contextlib.nullcontext():
        client = mlflow.MlflowClient(store_uri())
        found = client.get_experiment_by_name(experiment)
        if found:
            return client, found.experiment_id
        location = (store.parent / "artifacts" / experiment).as_uri() if is_local() else None
        return client, client.create_experiment(experiment, artifact_location=location)


def _guarded(method):
    """Let a failure of the store end the tracking of this run, not the run."""

    @functools.wraps(method)
    def guarded(self, *args, **kwargs):
        if self.broken:
            return
        try:
            method(self, *args, **kwargs)
        except Exception as error:  # whatever the store, the database driver or the network raises
            self.broken = True
            _warn(error)

    return guarded


class Tracker:
    """The MLflow run of one training. Every method is safe to call when the store is out of reach."""

    def __init__(self, training, fingerprint, stage, tags=None):
        """Find or create the MLflow run of a pipeline.config.Training and mark it RUNNING.

        Args:
            fingerprint: pipeline.config.fingerprint of the training, or the one recorded in its checkpoint.
            stage: `train` or `evaluate`, recorded as a tag.
            tags: further tags, strings.
        """
        self.broken = False
        self.last_iteration = 0
        self._start(training, fingerprint, stage, tags or {})

    @_guarded
    def _start(self, training, fingerprint, stage, tags):
        self.client, experiment = connect(training.dataset)
        identity = {"run": training.name, "seed": str(training.seed), "fingerprint": fingerprint}
        query = " and ".join(f"tags.{key} = '{value}'" for key, value in identity.items())
        found = self.client.search_runs([experiment], query, max_results=1)
        tags = identity | tags | {
            "dataset": training.dataset,
            "direction": training.split,
            "stage": stage,
            "mlflow.source.git.commit": git_commit(),
            "dvc_stage": os.environ.get("DVC_STAGE", ""),
            "dvc_experiment": os.environ.get("DVC_EXP_NAME", ""),
        }  # fmt: skip
        if found:
            self.id = found[0].info.run_id
            points = self.client.get_metric_history(self.id, "loss")
            self.last_iteration = max((point.step for point in points), default=0)
            for key, value in tags.items():
                self.client.set_tag(self.id, key, value)
        else:
            created = self.client.create_run(experiment, tags=tags, run_name=f"{training.name}_seed{training.seed}")
            self.id = created.info.run_id
            self._log_parameters(training)
        self.client.update_run(self.id, status="RUNNING")

    def _log_parameters(self, training):
        from dataclasses import asdict

        from mlflow.entities import Param

        parameters = {key: value for key, value in asdict(training.knobs).items() if key != "seeds"}
        parameters |= {"dataset": training.dataset, "direction": training.split, "backbone": training.backbone,
                       "seed": training.seed, "batch_size": training.data["batch_size"]}  # fmt: skip
        for section in (
            training.method,
            training.schedule,
            training.optimisation,
            training.optimisation["optimizer"],
        ):
            parameters |= {key: value for key, value in section.items() if not isinstance(value, dict)}
        parameters |= {package: metadata.version(package) for package in ("torch", "mmdet", "mmcv-full")}
        self.client.log_batch(self.id, params=[Param(key, str(value)) for key, value in parameters.items()])

    @_guarded
    def log_history(self, records):
        """Log the records of a log.jsonl that are not in the store yet."""
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        metrics = [
            Metric(key, float(value), now, record["iter"])
            for record in records
            if record["iter"] > self.last_iteration
            for key, value in record.items()
            if key != "iter"
        ]
        for start in range(0, len(metrics), 1000):  # the store's limit for one batch
            self.client.log_batch(self.id, metrics[start : start + 1000])
        if records:
            self.last_iteration = max(self.last_iteration, records[-1]["iter"])

    @_guarded
    def log_scores(self, scores):
        """Log one seed's results: `novel_mask_mAP`, `base_box_AP50`, ... and AP by category as an artifact."""
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        metrics = [Metric(key, value, now, 0) for key, value in headline(scores).items()]
        self.client.log_batch(self.id, metrics)
        self.client.log_dict(self.id, scores["per_category"], "per_category.json")

    @_guarded
    def log_files(self, *files):
        for path in files:
            self.client.log_artifact(self.id, str(path))

    @_guarded
    def end(self, status):
        """Set the final status of this stage: SCHEDULED (trained), FINISHED (evaluated), FAILED."""
        self.client.set_terminated(self.id, status)


@contextlib.contextmanager
def track(training, fingerprint, stage, status, tags=None):
    """Track a stage: yields a Tracker, ends it with `status`, or with FAILED if the body raises."""
    tracker = Tracker(training, fingerprint, stage, tags)
    try:
        yield tracker
    except BaseException:
        tracker.end("FAILED")
        raise
    tracker.end(status)


def headline(scores):
    """Flatten {iou type: {group: {metric: percent or None}}} to {`<group>_<mask|box>_<metric>`: percent}."""
    kinds = {"segm": "mask", "bbox": "box"}
    return {
        f"{group}_{kind}_{metric}": value
        for iou_type, kind in kinds.items()
        for group, values in scores[iou_type].items()
        for metric, value in values.items()
        if value is not None
    }


def run_links(dataset):
    """Where MLflow shows the runs of a dataset: {run: {fingerprint: address}}; None if the store is out of reach.

    A local store has no page of its own: the addresses are those of `make ui`.
    """
    try:
        if is_local() and not paths.tracking_store().exists():
            return {}
        client, experiment = connect(dataset)
        links = {}
        for run in client.search_runs([experiment], order_by=["attributes.start_time ASC"], max_results=10000):
            if {"run", "fingerprint"} <= set(run.data.tags):
                address = f"{_page()}/#/experiments/{experiment}/runs/{run.info.run_id}"
                links.setdefault(run.data.tags["run"], {})[run.data.tags["fingerprint"]] = address
        return links
    except Exception as error:  # as in _guarded
        _warn(error)
        return None


def _page():
    """Address of the MLflow page, without the user name and password that a tracking URI may hold."""
    uri = urlsplit(store_uri())
    if uri.scheme not in ("http", "https"):
        return "http://127.0.0.1:5000"
    return _without_password(f"{uri.scheme}://{uri.netloc}{uri.path.rstrip('/')}")


def log_report(dataset, directory, selection, scores):
    """Keep the newest page, tables and figures as the artifacts of one MLflow run named `report`.

    Args:
        directory: `reports/`.
        selection: pipeline.experiments.selected(): which tables and figures.
        scores: {run: mAP of masks on novel categories}, logged as `<run>_novel_mask_mAP`.
    """
    try:
        from mlflow.entities import Metric

        client, experiment = connect(dataset)
        for old in client.search_runs([experiment], "tags.stage = 'report'"):
            client.delete_run(old.info.run_id)
        tags = {"stage": "report", "dataset": dataset, "mlflow.source.git.commit": git_commit(),
                "tables": ",".join(selection["tables"])}  # fmt: skip
        run = client.create_run(experiment, tags=tags, run_name="report").info.run_id
        now = int(time.time() * 1000)
        client.log_batch(run, [Metric(f"{name}_novel_mask_mAP", value, now, 0) for name, value in scores.items()])
        for kind in ("tables", "figures"):
            for name in selection[kind]:  # others in the folder may be of an earlier choice or dataset
                for path in sorted((directory / kind).glob(f"{name}.*")):
                    client.log_artifact(run, str(path), kind)
        for page in ("index.html", "README.md"):
            if (directory / page).exists():
                client.log_artifact(run, str(directory / page))
        client.set_terminated(run)
    except Exception as error:  # as in _guarded
        _warn(error)


def _warn(error):
    first_line = (str(error).splitlines() or [type(error).__name__])[0]
    what = _without_password(f"{store_uri()}: {first_line[:200]}")
    logger.warning("MLflow store %s; going on without tracking", what)


def _without_password(text):
    """Text without the user names and passwords of the addresses in it."""
    return re.sub(r"(?<=://)[^/@\s]+@", "", text)
