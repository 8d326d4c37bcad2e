"""Bring the store to what the files of trainings say, of one or of all of this machine."""

import hashlib
import json
import os
import time
from pathlib import Path

from pipeline import tasks
from pipeline.errors import ExperimentError
from pipeline.redaction import redact_uri
from pipeline.tracking import store
from pipeline.tracking.record import IDENTITY, Record

SETTLE_SECONDS = 15.0  # after which bringing the store up to date is put off while a stage works


class _Patience:
    """A client that raises TimeoutError instead of calling the store once a time of the monotonic clock is over."""

    def __init__(self, client, end):
        self._client, self._end = client, end

    def __getattr__(self, name):
        if time.monotonic() > self._end:
            raise TimeoutError("answers too slowly")
        return getattr(self._client, name)


def settle(record, passed, seconds):
    """Bring the MLflow run of an owned record to what its files say, the final status last.

    Args:
        passed: records of the training log beside those in its folder.
        seconds: after which to give up, with TimeoutError; what was stored until then remains.

    Returns:
        (client, {(metric, step)} of every point that the store holds).

    Raises:
        Exception: the store is out of reach or refuses; of whatever type it, its driver or the network chooses.
    """
    from mlflow.entities import Param, RunTag

    content = record.content
    connected, experiment = store.connect(content["dataset"])  # bounded by itself
    client = _Patience(connected, time.monotonic() + seconds)
    run = _find_or_create(client, experiment, content)
    if content.get("id") != run.info.run_id:
        record.change(id=run.info.run_id)
    if content["status"] == "RUNNING" and run.info.status != "RUNNING":
        client.update_run(run.info.run_id, status="RUNNING")

    tags = [RunTag(key, value) for key, value in content["tags"].items() if run.data.tags.get(key) != value]
    parameters = [Param(key, value) for key, value in content["parameters"].items() if key not in run.data.params]
    client.log_batch(run.info.run_id, tags=tags, params=parameters)
    if not run.inputs.dataset_inputs and content.get("data", {}).get("digest"):
        client.log_inputs(run.info.run_id, _dataset_inputs(content))

    newest = {}  # {(metric, step): value}
    for key in run.data.metrics:
        for point in sorted(client.get_metric_history(run.info.run_id, key), key=lambda point: point.timestamp):
            newest[key, point.step] = point.value
    log = {entry["iter"]: entry for entry in [*record.log(), *passed]}
    missing = points(record, log.values(), newest)
    missing += [point for point in _scores(record) if newest.get((point.key, 0)) != point.value]
    log_points(client, run.info.run_id, missing)

    _log_artifacts(client, run.info.run_id, record)
    if content["status"] != "RUNNING":
        if content["status"] != run.info.status:
            client.set_terminated(run.info.run_id, content["status"], content["ended"])
        record.settled()
    return connected, {*newest, *((point.key, point.step) for point in missing)}


def _dataset_inputs(content):
    from mlflow.entities import Dataset, DatasetInput, InputTag

    name, data = content["dataset"], content["data"]
    source = json.dumps(
        {"uri": f"data/{name}/splits/{data['split'] if 'split' in data else data['direction']}/train.json"}
    )
    dataset = Dataset(name, data["digest"], "local", source)
    return [DatasetInput(dataset, [InputTag("mlflow.data.context", "training")])]


def _find_or_create(client, experiment, content):
    """The one MLflow run of a training. Of several, made by writers that could not see each other, the first is kept.

    Everybody keeps the same one, and who finds his run deleted settles again, so nothing is lost with the others.
    """
    identity = {key: str(content[key]) for key in IDENTITY if key != "dataset"}
    query = " and ".join(f"tags.{key} = '{value}'" for key, value in identity.items())
    runs = client.search_runs([experiment], query)
    if not runs:
        name = f"{content['run']}_seed{content['seed']}"
        client.create_run(experiment, tags=content["tags"] | identity, run_name=name)
        runs = client.search_runs([experiment], query)
    first, *others = sorted(runs, key=lambda run: (run.info.start_time, run.info.run_id))
    for run in others:
        client.delete_run(run.info.run_id)
    return first


def points(record, log, known):
    """The metrics of records of a training log that are not `known`, with the time kept for each iteration."""
    from mlflow.entities import Metric

    log = list(log)
    times = record.times([entry["iter"] for entry in log])
    return [
        Metric(f"train/{key}", float(value), times[entry["iter"]], entry["iter"])
        for entry in log
        for key, value in entry.items()
        if key != "iter" and (f"train/{key}", entry["iter"]) not in known
    ]


# Names of numbers in files of former versions, such as `novel_mask_mAP`: {name then: name now}
_FORMER = {
    f"{group}_{word}_{key}": task.tracked(group, kind, key)
    for task in map(tasks.task, tasks.names())
    for group in task.groups
    for kind, word in task.kinds.items()
    for key in task.keys
}


def _scores(record):
    """The scores of a training as metrics at step 0; an evaluation with other results adds a later point there."""
    from mlflow.entities import Metric

    scores = record.content.get("scores", {"metrics": {}})
    return [Metric(_FORMER.get(key, key), float(value), scores["time"], 0) for key, value in scores["metrics"].items()]


def log_points(client, run, points):
    for start in range(0, len(points), 1000):  # the store's limit for one batch
        client.log_batch(run, points[start : start + 1000])


def _log_artifacts(client, run, record):
    """Upload what is absent or has changed since it was uploaded."""
    files = {name: Path(path) for name, path in record.content.get("files", {}).items()}
    texts = {name: path.read_text() for name, path in files.items() if path.exists()}
    if "scores" in record.content:
        texts["per_category.json"] = json.dumps(record.content["scores"]["per_category"], indent=2)
    if not texts:
        return
    there = {item.path for item in client.list_artifacts(run)}
    for name, text in texts.items():
        digest = hashlib.sha256(text.encode()).hexdigest()
        if name not in there or record.content.get("uploaded", {}).get(name) != digest:
            client.log_text(run, text, name)
            record.change(uploaded={name: digest})


def settle_all(seconds, everything=False):
    """Bring the store to what the files of this machine say, for all trainings that no living process tracks.

    One that is RUNNING in its files while nobody tracks it was interrupted: it becomes KILLED. With nothing pending
    this reads one folder.

    Args:
        seconds: for all of them together; what is left then stays pending.
        everything: also those of other stores and those that the store was found to hold, as after a change of store.

    Returns:
        (settled, busy, elsewhere, errors): numbers of trainings settled now, tracked by a living process, and pending
        for another store; and the error of each one that could not be settled.
    """
    end = time.monotonic() + seconds
    settled, busy, elsewhere, errors = 0, 0, 0, []
    records = Record.found(pending_only=not everything)
    for number, record in enumerate(records):
        if record.content["store"] != store.label() and not everything:
            elsewhere += 1
            continue
        record.content = {}  # read again when owned
        if not record.own():
            busy += 1
            continue
        try:
            if not (everything or record.pending):
                continue  # settled by another process in the meantime
            if time.monotonic() > end:
                raise TimeoutError("answers too slowly")
            if record.content["status"] == "RUNNING":
                record.change(status="KILLED", ended=record.last_sign())
            record.change(store=store.label())
            settle(record, [], end - time.monotonic())
            settled += 1
        except store.StoreError as error:  # the others would wait for the same
            errors += [error] * (len(records) - number)
            break
        except Exception as error:  # as in pipeline.tracking.tracker.Tracker._push
            errors.append(error)
        finally:
            record.release()
    return settled, busy, elsewhere, errors


def complete(everything):
    """`settle_all` with patience. Returns what it did in a line.

    Raises:
        ExperimentError: the store does not hold all of it now, and why.
    """
    if os.environ["MLFLOW_HTTP_REQUEST_TIMEOUT"] == store.REQUEST_SECONDS:
        os.environ["MLFLOW_HTTP_REQUEST_TIMEOUT"] = "60"  # nobody's training waits
    settled, busy, elsewhere, errors = settle_all(float("inf"), everything)
    if errors:
        matter, remedy = store.matter_and_remedy(errors[0])
        raise ExperimentError(
            f"MLflow store {redact_uri(store.tracking_uri())}: {matter}; {len(errors)} trainings are not "
            f"complete in it: {remedy}"
        )
    line = f"MLflow store {store.label()}: {settled} trainings brought up to date"
    if busy:
        line += f", {busy} left to the processes that track them"
    if elsewhere:
        line += f", {elsewhere} wait for another store: set MLFLOW_TRACKING_URI"
    return line
