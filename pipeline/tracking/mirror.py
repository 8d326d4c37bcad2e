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
import errno
import hashlib
import json
import logging
import os
import re
import shlex
import socket
import subprocess
import sys
import threading
import time
from importlib import metadata
from pathlib import Path
from urllib.parse import urlsplit

from pipeline.artifacts import locks, paths
from pipeline.errors import ExperimentError, Interrupted
from pipeline.redaction import needs_encoding, redact, redact_uri
from pipeline.tracking.record import IDENTITY, Record

logger = logging.getLogger("pipeline.tracking.mirror")

REQUEST_SECONDS = "5"  # for one answer of a server; mlflow itself waits for minutes
for _name, _value in {
    "MLFLOW_HTTP_REQUEST_TIMEOUT": REQUEST_SECONDS,
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",  # repeated here, later
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",  # the address may hold a password
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "PGCONNECT_TIMEOUT": REQUEST_SECONDS,
}.items():
    os.environ.setdefault(_name, _value)

OPEN_SECONDS = 12.0  # for opening a store that is there; mlflow itself tries a database for minutes
CREATE_SECONDS = 120.0  # for making the tables of a local store, once
SCHEMES = ("http", "https", "sqlite", "postgresql", "file")
PRIMARY_METRIC = "novel/mask/AP"

SETTLE_SECONDS = 15.0  # after which bringing the store up to date is put off while a stage works
PAUSE = 20  # the store is left alone this many times as long as it kept us
PAUSE_SECONDS = 5.0  # and at least this long after a failure


def store_uri():
    """The tracking URI: MLFLOW_TRACKING_URI, or the local SQLite store."""
    uri = os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{paths.tracking_store()}"
    # the driver that environment.yml pins; SQLAlchemy's default is another
    return re.sub("^postgresql:", "postgresql+psycopg2:", uri)


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


def _store_name():
    """The store without what may change between two commands, such as a password."""
    return redact_uri(os.environ.get("MLFLOW_TRACKING_URI") or "local")


class StoreError(Exception):
    """A store that cannot be used: what is the matter and a remedy that ends with the command to repeat."""

    def __init__(self, matter, remedy):
        super().__init__(f"{matter}; {remedy}")
        self.matter, self.remedy = matter, remedy


AP_COLUMNS = [f"metrics.`{name}`" for name in (PRIMARY_METRIC, "base/mask/AP", "novel/box/AP")]
# of an experiment; the last is what `?viewStateShareKey=ap` of MLflow's page shows: AP as columns, the best run first
VIEW = {
    "mlflow.experiment.primaryMetric.name": PRIMARY_METRIC,
    "mlflow.experiment.primaryMetric.greaterIsBetter": "true",
    "mlflow.sharedViewState.ap": json.dumps(
        {"orderByKey": AP_COLUMNS[0], "orderByAsc": False, "selectedColumns": AP_COLUMNS}
    ),
}
NOTE = (
    "A run is one training with its evaluation. AP in percent: novel = categories trained with boxes only, base = "
    "categories trained with masks. The address that `make ui` prints shows AP as columns, the best run first."
)
REPEAT = "`python -m commands.track`"
REFILL = "`python -m commands.track --all`"


def connect(experiment):
    """Return (client, experiment id), creating store and experiment if need be.

    Raises:
        StoreError: it cannot be opened within `OPEN_SECONDS`, or the experiment was deleted in it.
    """
    client = open_store()
    return client, _within(lambda: _experiment(client, experiment))


def find_experiment(experiment):
    """Open a store that is there and look for an experiment, making nothing. Raises StoreError."""
    client = open_store()
    _within(lambda: _experiment(client, experiment, make=False))


def open_store():
    """A client of the store; a local one is made if need be. Raises StoreError."""
    import mlflow  # takes seconds; whoever tracks nothing should not pay for it
    from mlflow.store.db import utils

    uri = store_uri()
    scheme = uri.partition(":")[0].partition("+")[0]
    if scheme not in SCHEMES or "://" not in uri and scheme != "file":
        raise StoreError(
            f"MLFLOW_TRACKING_URI has the scheme {scheme[:20]!r}",
            f"valid: {', '.join(SCHEMES)}, as in http://127.0.0.1:5000 or sqlite:////folder/mlflow.db, then {REPEAT}",
        )
    if needs_encoding(uri):
        raise StoreError(
            "user or password in MLFLOW_TRACKING_URI hold @, /, ?, # or spaces as they are",
            "write them encoded (@ is %40, / is %2F, a space is %20), or set MLFLOW_TRACKING_USERNAME and "
            f"MLFLOW_TRACKING_PASSWORD instead, then {REPEAT}",
        )
    utils.MAX_RETRY_COUNT = 2  # the store is tried again by whoever tracks; ten times take minutes
    logging.getLogger(utils.__name__).setLevel(logging.ERROR)
    if (file := sqlite_file(uri)) and not file.exists():
        _create(file)
    return _within(lambda: mlflow.MlflowClient(uri))


def sqlite_file(uri):
    """The file of a SQLite store; None for any other."""
    return Path(urlsplit(uri).path[1:]).absolute() if uri.startswith("sqlite:///") else None


def _create(file):
    """Make the tables of a local store. Under a lock and another name: a store that is there is complete."""
    import mlflow

    def create():
        file.parent.mkdir(parents=True, exist_ok=True)
        lock = locks.lock_file(f"{file}.lock")
        if not locks.take(lock, "the MLflow store", CREATE_SECONDS):
            raise TimeoutError(f"{file}.lock is held by another process")
        try:
            if not file.exists():
                part = file.with_name(f"{file.name}.part")
                part.unlink(missing_ok=True)
                mlflow.MlflowClient(f"sqlite:///{part}").search_experiments(max_results=1)
                os.replace(part, file)
        finally:
            lock.release()

    _within(create, CREATE_SECONDS)


def _experiment(client, name, make=True):
    """Identifier of an experiment, made if need be and if `make`."""
    found = client.get_experiment_by_name(name)
    if found is None:
        if not make:
            return None
        location = (paths.tracking_store().parent / "artifacts" / name).as_uri() if is_local() else None
        return client.create_experiment(name, artifact_location=location, tags=VIEW | {"mlflow.note.content": NOTE})
    if found.lifecycle_stage == "deleted":
        restore = f"`{_mlflow()} experiments restore -x {found.experiment_id}`"
        raise StoreError(f"the experiment {name!r} was deleted in it", f"bring it back with {restore}, then {REPEAT}")
    if make:
        for key, value in VIEW.items():
            if found.tags.get(key) != value:
                client.set_experiment_tag(found.experiment_id, key, value)
    return found.experiment_id


def _mlflow():
    """The command line of MLflow for this store; what holds a password is taken from the environment."""
    uri = store_uri()
    given = os.environ.get("MLFLOW_TRACKING_URI")
    return ("" if given else f"MLFLOW_TRACKING_URI={shlex.quote(uri)} ") + "python -m mlflow"


def _within(work, seconds=None):
    """The result of `work`, done in a thread that is left alone when it takes longer.

    Raises:
        StoreError: it took longer, or failed.
    """
    seconds = seconds or max(OPEN_SECONDS, 2.4 * float(os.environ["MLFLOW_HTTP_REQUEST_TIMEOUT"]))
    result = []

    def run():
        try:
            result.append((work(), None))
        except Exception as error:  # whatever the store, its driver or the network chooses
            result.append((None, error))

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(seconds)
    if not result:
        raise StoreError(f"it could not be opened within {seconds:.0f} s", f"repeat {REPEAT} when it answers")
    value, error = result[0]
    if isinstance(error, StoreError):
        raise error
    if error is not None:
        raise StoreError(*_explain(error)) from error
    return value


def _explain(error):
    """(what is the matter, a remedy that ends with the command to repeat) of an error of the store."""
    lines = [line for line in redact(error).splitlines() if line.strip()] or [type(error).__name__]
    matter, text = lines[0][:200], " ".join(lines)
    file = sqlite_file(store_uri())
    if isinstance(error, TimeoutError):
        return matter, f"repeat {REPEAT} when it answers"
    if "out-of-date database schema" in text or "Can't locate revision" in text:
        return _explain_schema(text, file)
    if "database is locked" in text:
        return "its database is locked by another process", f"end that (`fuser {_shell(file)}` names it), then {REPEAT}"
    read_only = re.search("readonly database|unable to open database|Read-only file", text)
    if file and (read_only or isinstance(error, PermissionError)):
        return "its file or folder cannot be written", (
            f"make them yours and writable (`ls -ld {_shell(file.parent)}` shows whose they are), or move what is "
            f"written to another disk with CONTRASTMASK_HOME, then {REPEAT}"
        )
    if "not a database" in text or "malformed" in text or file and "no such table" in text:
        aside = f"`mv {_shell(file)} {_shell(file, '.damaged')}`" if file else "on its server"
        return "its file is damaged", f"put it aside ({aside}), then {REFILL} fills a new one"
    if "disk is full" in text or getattr(error, "errno", None) == 28:
        return "its disk is full", f"free space (`df -h {_shell(file.parent) if file else ''}`), then {REPEAT}"
    if "401" in text or "403" in text or "Invalid username" in text:
        return matter, f"set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, then {REPEAT}"
    return matter, f"repeat {REPEAT} when it answers"


def _shell(path, suffix=""):
    """A path as a shell takes it, also with spaces."""
    return shlex.quote(f"{path}{suffix}")


def _explain_schema(text, file):
    """Of a database with the tables of another version of MLflow: an older one can be lifted, a newer one cannot."""
    from alembic.script import ScriptDirectory
    from mlflow.store.db.utils import _get_alembic_config

    mine = f"MLflow {metadata.version('mlflow')}"
    found = re.search(r"version (\w+)|revision identified by '(\w+)'", text)
    known = {script.revision for script in ScriptDirectory.from_config(_get_alembic_config("")).walk_revisions()}
    revision = found and (found[1] or found[2])
    if revision == "None" or revision in known:
        if not file:
            return f"its tables are older than {mine}", f"`mlflow db upgrade` on its server lifts them, then {REPEAT}"
        return f"its tables are older than {mine}", (
            f"lift them with `cp {_shell(file)} {_shell(file, '.old')} && python -m mlflow db upgrade "
            f"{shlex.quote(f'sqlite:///{file}')}`, then {REPEAT}"
        )
    if not file:
        return f"its tables are newer than {mine}", "track through the `mlflow server` that made them (http://...)"
    aside = f"`mv {_shell(file)} {_shell(file, '.newer')}`"
    return f"its tables are newer than {mine}", (
        f"put it aside for the version that made it ({aside}), then {REFILL} fills a new one"
    )


class Tracker:
    """The MLflow run of one training. Every method is safe to call when the store is out of reach."""

    def __init__(self, training, fingerprint, stage, tags=None):
        """Find or create the MLflow run of a pipeline.declaration.config.Training and mark it RUNNING.

        Args:
            fingerprint: pipeline.declaration.config.fingerprint of the training, or the one recorded in its checkpoint.
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
            store=_store_name(),
            status="RUNNING",
            parameters=_redacted(_parameters(training)),
            data={"digest": _digest(training.dataset), "direction": training.split},
            tags=_redacted(
                (tags or {})
                | {
                    "dataset": training.dataset,
                    "direction": training.split,
                    "stage": stage,
                    "mlflow.note.content": description(training),
                    "mlflow.source.name": f"stages/{stage}.py",
                    "mlflow.source.type": "LOCAL",
                    "mlflow.source.git.commit": git_commit(),
                    "dvc_stage": os.environ.get("DVC_STAGE", ""),
                    "dvc_experiment": os.environ.get("DVC_EXP_NAME", ""),
                }
            ),
        )
        self.record.own(1.0)  # a `sync` of another process may have it for a moment
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

        The store is read back and completed first. If that cannot be done now, `sync` does it later.
        """
        self.record.change(status=status, ended=int(time.time() * 1000))
        self._next = 0.0
        if self.record.own(SETTLE_SECONDS + 2 * PAUSE_SECONDS):  # a `sync` may have it
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
                self._client, self._known = _settle(self.record, self._waiting.values(), SETTLE_SECONDS)
            else:
                points = _points(self.record, self._waiting.values(), self._known)
                _log_points(self._client, self.record.content["id"], points)
                self._known.update((point.key, point.step) for point in points)
        except Exception as error:  # whatever the store, its driver or the network chooses
            self.reached = False
            if not self._told:
                kept = paths.tracking_records() / self.record.content["dataset"]
                _warn(error, f"the work goes on, its records are kept in {kept}")
            self._told = True
        else:
            if self._told:
                logger.info("MLflow store %s answers again and is complete", _store_name())
            self.reached, self._told = True, False
            self._waiting.clear()
        now = time.monotonic()
        self._next = now + max(PAUSE * (now - began), 0 if self.reached else PAUSE_SECONDS)


def _redacted(texts):
    return {key: redact(text) for key, text in texts.items()}


def _digest(dataset):
    """Tells one content of a dataset from another: of its manifest, empty without one."""
    manifest = paths.manifest(dataset)
    return hashlib.sha256(manifest.read_bytes()).hexdigest()[:16] if manifest.exists() else ""


def description(training):
    """What a run is, in words."""
    parts = ["Mask R-CNN whose mask head shares its weights among all categories (the baseline)"]
    if training.method["cam"]:
        parts.append("CM: the class activation map of the box head, added to the features of the mask head")
    if training.method["cl_head"]:
        parts.append(
            "CL: the contrastive learning head, which draws pixels of one object together and away from its "
            "background, also where only a box is known"
        )
    base, _, novel = training.split.partition("2")
    return (
        f"{'; '.join(parts)}. Trained on {training.dataset} with masks of the {base} categories (base) and boxes "
        f"alone of the {novel} categories (novel), backbone {training.backbone}, seed {training.seed}; then scored "
        "on its validation images."
    )


def _parameters(training):
    from dataclasses import asdict

    parameters = {key: value for key, value in asdict(training.knobs).items() if key != "seeds"}
    parameters |= {
        "dataset": training.dataset,
        "direction": training.split,
        "backbone": training.backbone,
        "seed": training.seed,
        "batch_size": training.data["batch_size"],
    }
    for section in (
        training.method,
        training.schedule,
        training.optimisation,
        training.optimisation["optimizer"],
    ):
        parameters |= {key: value for key, value in section.items() if not isinstance(value, dict)}
    parameters |= {package: metadata.version(package) for package in ("torch", "mmdet", "mmcv-full")}
    return {key: str(value) for key, value in parameters.items()}


class _Patience:
    """A client that raises TimeoutError instead of calling the store once a time of the monotonic clock is over."""

    def __init__(self, client, end):
        self._client, self._end = client, end

    def __getattr__(self, name):
        if time.monotonic() > self._end:
            raise TimeoutError("answers too slowly")
        return getattr(self._client, name)


def _settle(record, passed, seconds):
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
    connected, experiment = connect(content["dataset"])  # bounded by itself
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
    missing = _points(record, log.values(), newest)
    missing += [point for point in _scores(record) if newest.get((point.key, 0)) != point.value]
    _log_points(client, run.info.run_id, missing)

    _log_artifacts(client, run.info.run_id, record)
    if content["status"] != "RUNNING":
        if content["status"] != run.info.status:
            client.set_terminated(run.info.run_id, content["status"], content["ended"])
        record.settled()
    return connected, {*newest, *((point.key, point.step) for point in missing)}


def _dataset_inputs(content):
    from mlflow.entities import Dataset, DatasetInput, InputTag

    name, data = content["dataset"], content["data"]
    source = json.dumps({"uri": f"data/{name}/splits/{data['direction']}/train.json"})
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


def _points(record, log, known):
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


def _scores(record):
    """The scores of a training as metrics at step 0; an evaluation with other results adds a later point there."""
    from mlflow.entities import Metric

    scores = record.content.get("scores", {"metrics": {}})
    return [Metric(_grouped(key), float(value), scores["time"], 0) for key, value in scores["metrics"].items()]


def _grouped(key):
    """`novel/mask/AP` also for what files of former versions call `novel_mask_mAP`."""
    former = re.fullmatch(r"(\w+)_(mask|box)_(m?AP\w*)", key)
    return "/".join(former.groups()).replace("mAP", "AP") if former else key


def _log_points(client, run, points):
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


@contextlib.contextmanager
def track(training, fingerprint, stage, status, tags=None):
    """Track a stage: yields a Tracker, ends it with `status`, with FAILED on an error, with KILLED when interrupted.

    Before and after, other trainings that the store lacks something of are brought up to date.
    """
    tracker = Tracker(training, fingerprint, stage, tags)
    if tracker.reached:
        sync(SETTLE_SECONDS)
    try:
        yield tracker
    except BaseException as error:
        stopped = isinstance(error, Interrupted) or not isinstance(error, Exception)
        tracker.end("KILLED" if stopped else "FAILED")
        raise
    tracker.end(status)
    if tracker.reached:
        sync(SETTLE_SECONDS)


def sync(seconds, everything=False):
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
        if record.content["store"] != _store_name() and not everything:
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
            record.change(store=_store_name())
            _settle(record, [], end - time.monotonic())
            settled += 1
        except StoreError as error:  # the others would wait for the same
            errors += [error] * (len(records) - number)
            break
        except Exception as error:  # as in Tracker._push
            errors.append(error)
        finally:
            record.release()
    return settled, busy, elsewhere, errors


def complete(everything):
    """`sync` with patience. Returns what it did in a line.

    Raises:
        ExperimentError: the store does not hold all of it now, and why.
    """
    if os.environ["MLFLOW_HTTP_REQUEST_TIMEOUT"] == REQUEST_SECONDS:
        os.environ["MLFLOW_HTTP_REQUEST_TIMEOUT"] = "60"  # nobody's training waits
    settled, busy, elsewhere, errors = sync(float("inf"), everything)
    if errors:
        matter, remedy = _of(errors[0])
        raise ExperimentError(
            f"MLflow store {redact_uri(store_uri())}: {matter}; {len(errors)} trainings are not "
            f"complete in it: {remedy}"
        )
    line = f"MLflow store {_store_name()}: {settled} trainings brought up to date"
    line += f", {busy} left to the processes that track them" * bool(busy)
    return line + f", {elsewhere} wait for another store: set MLFLOW_TRACKING_URI" * bool(elsewhere)


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
    except Exception as error:  # as in Tracker._push
        _warn(error, "going on without it")
        return None


def _page():
    """Address of the MLflow page, without the user name and password that a tracking URI may hold."""
    uri = urlsplit(redact_uri(store_uri()))
    if uri.scheme not in ("http", "https"):
        return "http://127.0.0.1:5000"
    return f"{uri.scheme}://{uri.netloc}{uri.path.rstrip('/')}"


def serve(host, port):
    """Become `mlflow ui` on the store. Its address goes through the environment: arguments can be read by everybody.

    Raises:
        ExperimentError: the store is a server or not there, or the port cannot be had; says what to do.
    """
    uri = store_uri()
    if urlsplit(uri).scheme in ("http", "https"):
        raise ExperimentError(f"MLFLOW_TRACKING_URI names a server, which has a page of its own: open {_page()}")
    if (file := sqlite_file(uri)) and not file.exists():
        raise ExperimentError(f"{file}: there is no MLflow store yet; the first training makes it (`make reproduce`)")
    try:
        client = open_store()
        experiments = _within(client.search_experiments)
    except StoreError as error:
        raise ExperimentError(f"MLflow store {redact_uri(uri)}: {error}") from None
    try:
        family, *_ = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        socket.create_server((host, port), family=family).close()
    except (OSError, OverflowError) as error:
        reason = "is in use" if getattr(error, "errno", None) == errno.EADDRINUSE else f"cannot be had: {error}"
        with socket.create_server(("127.0.0.1", 0)) as free:
            other = free.getsockname()[1]
        raise ExperimentError(f"port {port} of {host} {reason}; choose another: `make ui PORT={other}`") from None
    print(f"MLflow store {redact_uri(uri)}: open http://{host}:{port} (Ctrl-C ends it)", flush=True)
    for experiment in experiments:
        if "mlflow.sharedViewState.ap" in experiment.tags:
            address = f"http://{host}:{port}/#/experiments/{experiment.experiment_id}/runs?viewStateShareKey=ap"
            print(f"    runs of {experiment.name}, the best first: {address}", flush=True)
    os.environ["MLFLOW_BACKEND_STORE_URI"] = uri
    os.execv(sys.executable, [sys.executable, "-m", "mlflow", "ui", "--host", host, "--port", str(port)])


def log_report(dataset, directory, selection, scores):
    """Keep the newest page, tables and figures as the artifacts of one MLflow run named `report`.

    Args:
        directory: `reports/<dataset>`.
        selection: pipeline.declaration.experiments.selected(): which tables and figures.
        scores: {run: {name: main number of its task}}, logged as `<name>/<run>`, such as `novel/mask/AP/<run>`.
    """
    try:
        from mlflow.entities import Metric

        client, experiment = connect(dataset)
        for old in client.search_runs([experiment], "tags.stage = 'report'"):
            client.delete_run(old.info.run_id)
        tags = {
            "stage": "report",
            "dataset": dataset,
            "mlflow.source.git.commit": git_commit(),
            "mlflow.source.name": "stages/report.py",
            "mlflow.source.type": "LOCAL",
            "mlflow.note.content": f"The newest tables, figures and page of {dataset}, as artifacts; its metrics "
            "are the AP of masks of novel categories, one for each run of the tables.",
            "tables": ",".join(selection["tables"]),
        }
        run = client.create_run(experiment, tags=tags, run_name="report").info.run_id
        now = int(time.time() * 1000)
        client.log_batch(
            run,
            [Metric(f"{key}/{name}", value, now, 0) for name, known in scores.items() for key, value in known.items()],
        )
        for kind in ("tables", "figures"):
            for name in selection[kind]:  # others in the folder may be of an earlier choice or dataset
                for path in sorted((directory / kind).glob(f"{name}.*")):
                    client.log_artifact(run, str(path), kind)
        for page in ("index.html", "README.md"):
            if (directory / page).exists():
                client.log_artifact(run, str(directory / page))
        client.set_terminated(run)
        sync(SETTLE_SECONDS)
    except Exception as error:  # as in Tracker._push
        _warn(error, "going on without it")


def _of(error):
    """(what is the matter, remedy) of an error of the store."""
    return (error.matter, error.remedy) if isinstance(error, StoreError) else _explain(error)


def _warn(error, consequence):
    matter, remedy = _of(error)
    logger.warning("MLflow store %s: %s; %s; %s", redact_uri(store_uri()), matter, consequence, remedy)
