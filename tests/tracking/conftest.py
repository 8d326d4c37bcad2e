"""A server that fails as it is told, and a working copy's home of its own for each test."""

import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request

import pytest

from pipeline.artifacts import paths
from pipeline.tracking import store


def free_port():
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return sock.getsockname()[1]


def wait_for(address, process, seconds=120):
    """Wait until a server answers; its process must not end before."""
    end = time.monotonic() + seconds
    while True:
        try:
            return urllib.request.urlopen(f"{address}/health", timeout=5).read()
        except OSError:
            assert process.poll() is None and time.monotonic() < end, f"{address} does not answer, see its log"
            time.sleep(0.1)


class FaultyServer:
    def __init__(self, folder):
        self.folder, self.port, self.process, self.plans = folder, free_port(), None, 0
        self.address = f"http://127.0.0.1:{self.port}"

    def start(self):
        command = [sys.executable, "-m", "tests.tracking.faulty_server", str(self.folder), str(self.port)]
        environment = {key: value for key, value in os.environ.items() if not key.startswith("MLFLOW_")}
        with (self.folder / "log").open("a") as log:
            self.process = subprocess.Popen(command, cwd=paths.ROOT, env=environment, stdout=log, stderr=log)
        wait_for(self.address, self.process)

    def kill(self):
        self.process.kill()
        self.process.wait()

    def fault(self, kind, path="", times=10**6, chance=1.0):
        self.plans += 1
        plan = {"kind": kind, "path": path, "times": times, "chance": chance, "number": self.plans}
        temporary = self.folder / "fault.json.part"
        temporary.write_text(json.dumps(plan))
        os.replace(temporary, self.folder / "fault.json")

    def heal(self):
        self.fault("none", times=0)


@pytest.fixture(scope="session")
def running_server(tmp_path_factory):
    server = FaultyServer(tmp_path_factory.mktemp("mlflow"))
    server.start()
    shutil.copy(server.folder / "mlflow.db", server.folder / "empty.db")
    yield server
    server.kill()


@pytest.fixture
def home(running_server, tmp_path, monkeypatch):
    """Its local store is there already: creating the tables takes seconds."""
    monkeypatch.setenv("CONTRASTMASK_HOME", str(tmp_path))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", store.REQUEST_SECONDS)  # commands.track raises it
    paths.tracking_store().parent.mkdir()
    shutil.copy(running_server.folder / "empty.db", paths.tracking_store())
    return tmp_path


@pytest.fixture
def server(running_server, home, monkeypatch):
    """The server in good health; pauses after a failure are short, an answer may take a second."""
    running_server.heal()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", running_server.address)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "1")
    monkeypatch.setattr("pipeline.tracking.tracker.PAUSE", 0)
    monkeypatch.setattr("pipeline.tracking.tracker.PAUSE_SECONDS", 0.0)
    yield running_server
    running_server.heal()
