"""MLflow's page: where it shows the runs, and `mlflow ui` on the store."""

import errno
import os
import socket
import sys
from urllib.parse import urlsplit

from pipeline.artifacts import paths
from pipeline.errors import ExperimentError
from pipeline.redaction import redact_uri
from pipeline.tracking import store


def run_links(*datasets):
    """Where MLflow shows the runs of data sets: {run: {fingerprint: address}}; None if the store is out of reach.

    A local store has no page of its own: the addresses are those of `make ui`.
    """
    try:
        if store.is_local() and not paths.tracking_store().exists():
            return {}
        links = {}
        for dataset in datasets:
            client, experiment = store.connect(dataset)
            for run in client.search_runs([experiment], order_by=["attributes.start_time ASC"], max_results=10000):
                if {"run", "fingerprint"} <= set(run.data.tags):
                    address = f"{page_address()}/#/experiments/{experiment}/runs/{run.info.run_id}"
                    links.setdefault(run.data.tags["run"], {})[run.data.tags["fingerprint"]] = address
        return links
    except Exception as error:  # as in pipeline.tracking.tracker.Tracker._push
        store.warn(error, "going on without it")
        return None


def page_address():
    """Address of the MLflow page, without the user name and password that a tracking URI may hold."""
    uri = urlsplit(redact_uri(store.tracking_uri()))
    if uri.scheme not in ("http", "https"):
        return "http://127.0.0.1:5000"
    return f"{uri.scheme}://{uri.netloc}{uri.path.rstrip('/')}"


def serve(host, port):
    """Become `mlflow ui` on the store. Its address goes through the environment: arguments can be read by everybody.

    Raises:
        ExperimentError: the store is a server or not there, or the port cannot be had; says what to do.
    """
    uri = store.tracking_uri()
    if urlsplit(uri).scheme in ("http", "https"):
        raise ExperimentError(f"MLFLOW_TRACKING_URI names a server, which has a page of its own: open {page_address()}")
    if (file := store.sqlite_file(uri)) and not file.exists():
        raise ExperimentError(f"{file}: there is no MLflow store yet; the first training makes it (`make reproduce`)")
    try:
        client = store.open_store()
        experiments = store.within(client.search_experiments)
    except store.StoreError as error:
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
