"""`make ui`: no password in the arguments, which everybody can read, and one line where it cannot start."""

import os
import re
import socket
from types import SimpleNamespace

import pytest

from pipeline.errors import ExperimentError
from pipeline.tracking import page, store
from tests.tracking.conftest import free_port
from tools.pins import ROOT


@pytest.fixture
def started(monkeypatch, tmp_path):
    """Arguments and environment that the server would have been started with."""
    calls = []
    experiment = SimpleNamespace(name="generated", experiment_id="7", tags=store.VIEW)
    monkeypatch.setenv("CONTRASTMASK_HOME", str(tmp_path))
    monkeypatch.setenv("MLFLOW_BACKEND_STORE_URI", "")
    monkeypatch.setattr(store, "open_store", lambda: SimpleNamespace(search_experiments=lambda: [experiment]))
    monkeypatch.setattr(os, "execv", lambda program, words: calls.append((words, dict(os.environ))))
    return calls


def test_the_address_of_the_store_is_no_argument(started, monkeypatch, capsys):
    uri = "postgresql://me:Zq9xZq9x@127.0.0.1:9/db?sslpassword=Zq9xZq9x"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    port = free_port()
    page.serve("127.0.0.1", port)
    ((words, environment),) = started
    assert "Zq9x" not in " ".join(words) + capsys.readouterr().out
    assert environment["MLFLOW_BACKEND_STORE_URI"] == uri.replace("postgresql:", "postgresql+psycopg2:")
    assert words[-4:] == ["--host", "127.0.0.1", "--port", str(port)]
    assert "store_uri" not in (ROOT / "Makefile").read_text()


def test_the_printed_page_shows_ap_first(started, monkeypatch, capsys):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "postgresql://127.0.0.1:9/db")
    page.serve("127.0.0.1", free_port())
    assert "/#/experiments/7/runs?viewStateShareKey=ap" in capsys.readouterr().out
    assert "metrics.`novel/mask/AP`" in store.VIEW["mlflow.sharedViewState.ap"]


def test_a_port_in_use_is_named_with_one_that_is_free(started, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "postgresql://127.0.0.1:9/db")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ExperimentError, match=f"port {port} of 127.0.0.1 is in use; choose another") as error:
            page.serve("127.0.0.1", port)
    other = int(re.search(r"`make ui PORT=(\d+)`", str(error.value))[1])
    page.serve("127.0.0.1", other)
    assert len(started) == 1


@pytest.mark.parametrize("port", [70000, -1])
def test_what_is_no_port(started, monkeypatch, port):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "postgresql://127.0.0.1:9/db")
    with pytest.raises(ExperimentError, match="cannot be had"):
        page.serve("127.0.0.1", port)


def test_no_store_yet_and_a_server(started, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "")
    with pytest.raises(ExperimentError, match="there is no MLflow store yet; the first training makes it"):
        page.serve("127.0.0.1", free_port())
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "https://me:Zq9xZq9x@host/mlflow")
    with pytest.raises(ExperimentError, match="a page of its own: open https://host/mlflow$"):
        page.serve("127.0.0.1", free_port())
    assert not started
