"""The MLflow store: where it is, how it is opened, and what its errors mean.

It is a SQLite file below `paths.home()` unless MLFLOW_TRACKING_URI names a server.
"""

import json
import logging
import os
import re
import shlex
import threading
from importlib import metadata
from pathlib import Path
from urllib.parse import urlsplit

from pipeline import tasks
from pipeline.artifacts import files, locks, paths
from pipeline.redaction import needs_encoding, redact, redact_uri

logger = logging.getLogger("pipeline.tracking")

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


def tracking_uri():
    """The tracking URI: MLFLOW_TRACKING_URI, or the local SQLite store."""
    uri = os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{paths.tracking_store()}"
    # the driver that environment.yml pins; SQLAlchemy's default is another
    return re.sub("^postgresql:", "postgresql+psycopg2:", uri)


def is_local():
    return tracking_uri().startswith("sqlite:")


def label():
    """The store without what may change between two commands, such as a password."""
    return redact_uri(os.environ.get("MLFLOW_TRACKING_URI") or "local")


class StoreError(Exception):
    """A store that cannot be used: what is the matter and a remedy that ends with the command to repeat."""

    def __init__(self, matter, remedy):
        super().__init__(f"{matter}; {remedy}")
        self.matter, self.remedy = matter, remedy


# what runs are compared by, the primary one first: main metrics among the headline numbers of all tasks
COMPARED = [
    task.tracked(group, kind, metric)
    for task in map(tasks.task, tasks.names())
    for group, kind, metric, _ in task.headline
    if metric == task.main[2]
]
COLUMNS = [f"metrics.`{name}`" for name in COMPARED]
# of an experiment; the last is what `?viewStateShareKey=ap` of MLflow's page shows: scores as columns, best run first
VIEW = {
    "mlflow.experiment.primaryMetric.name": COMPARED[0],
    "mlflow.experiment.primaryMetric.greaterIsBetter": "true",
    "mlflow.sharedViewState.ap": json.dumps(
        {"orderByKey": COLUMNS[0], "orderByAsc": False, "selectedColumns": COLUMNS}
    ),
}
_TASK = tasks.task(tasks.FIRST)
NOTE = (
    f"A run is one training with its evaluation. {_TASK.main_metric.in_unit}: novel = categories trained with "
    f"{_TASK.supervision['novel']} only, base = categories trained with {_TASK.supervision['base']}. The address that "
    f"`make ui` prints shows {_TASK.main_metric.name} as columns, the best run first."
)
REPEAT = "`python -m commands.track`"
REFILL = "`python -m commands.track --all`"


def connect(experiment):
    """Return (client, experiment id), creating store and experiment if need be.

    Raises:
        StoreError: it cannot be opened within `OPEN_SECONDS`, or the experiment was deleted in it.
    """
    client = open_store()
    return client, within(lambda: _experiment(client, experiment))


def find_experiment(experiment):
    """Open a store that is there and look for an experiment, making nothing. Raises StoreError."""
    client = open_store()
    within(lambda: _experiment(client, experiment, make=False))


def open_store():
    """A client of the store; a local one is made if need be. Raises StoreError."""
    import mlflow  # takes seconds; whoever tracks nothing should not pay for it
    from mlflow.store.db import utils

    uri = tracking_uri()
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
    return within(lambda: mlflow.MlflowClient(uri))


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
                with files.replacing(file) as part:
                    mlflow.MlflowClient(f"sqlite:///{part}").search_experiments(max_results=1)
        finally:
            lock.release()

    within(create, CREATE_SECONDS)


def _experiment(client, name, make=True):
    """Identifier of an experiment, made if need be and if `make`."""
    found = client.get_experiment_by_name(name)
    if found is None:
        if not make:
            return None
        location = (paths.tracking_store().parent / "artifacts" / name).as_uri() if is_local() else None
        return client.create_experiment(name, artifact_location=location, tags=VIEW | {"mlflow.note.content": NOTE})
    if found.lifecycle_stage == "deleted":
        restore = f"`{_command_line()} experiments restore -x {found.experiment_id}`"
        raise StoreError(f"the experiment {name!r} was deleted in it", f"bring it back with {restore}, then {REPEAT}")
    if make:
        for key, value in VIEW.items():
            if found.tags.get(key) != value:
                client.set_experiment_tag(found.experiment_id, key, value)
    return found.experiment_id


def _command_line():
    """The command line of MLflow for this store; what holds a password is taken from the environment."""
    uri = tracking_uri()
    given = os.environ.get("MLFLOW_TRACKING_URI")
    return ("" if given else f"MLFLOW_TRACKING_URI={shlex.quote(uri)} ") + "python -m mlflow"


def within(work, seconds=None):
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
    file = sqlite_file(tracking_uri())
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


def matter_and_remedy(error):
    """(what is the matter, remedy) of an error of the store."""
    return (error.matter, error.remedy) if isinstance(error, StoreError) else _explain(error)


def warn(error, consequence):
    matter, remedy = matter_and_remedy(error)
    logger.warning("MLflow store %s: %s; %s; %s", redact_uri(tracking_uri()), matter, consequence, remedy)
