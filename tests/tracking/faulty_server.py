"""python -m tests.tracking.faulty_server FOLDER PORT: MLflow's own handlers on a SQLite file, with faults on request.

FOLDER/fault.json says which requests fail and how: {"kind": ..., "path": part of the address, "times": how many,
"chance": of each, 0 to 1}. Kinds:

    drop    the connection breaks before the request is done
    lose    the request is done, then the connection breaks
    fail    answered with status 500, not done
    hang    no answer; not done
    late    no answer for two seconds, then done
"""

import contextlib
import json
import os
import random
import socket
import sys
import threading
import time
from pathlib import Path
from socketserver import ThreadingMixIn
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

LATE_SECONDS = 2


class Faults:
    """WSGI middleware that makes requests fail as the file says."""

    def __init__(self, app, path):
        self.app, self.path = app, path
        self.lock = threading.Lock()
        self.text, self.left, self.draw = "", 0, random.Random(0)

    def kind(self, address):
        with self.lock:
            with contextlib.suppress(FileNotFoundError):
                text = self.path.read_text()
                if text != self.text:
                    self.text, self.left = text, json.loads(text).get("times", 0)
                    self.draw = random.Random(text)
            if not self.left:
                return None
            fault = json.loads(self.text)
            if fault.get("path", "") not in address or self.draw.random() >= fault.get("chance", 1):
                return None
            self.left -= 1
            kind = fault["kind"]
            return self.draw.choice(["drop", "lose", "fail"]) if kind == "any" else kind

    def __call__(self, environ, start_response):
        kind = self.kind(environ["PATH_INFO"])
        if kind is None:
            return self.app(environ, start_response)
        if kind == "fail":
            start_response("500 Internal Server Error", [("Content-Type", "text/plain")])
            return [b"the database is gone"]
        if kind == "hang":
            time.sleep(60)
        if kind == "late":
            time.sleep(LATE_SECONDS)
        if kind in ("lose", "late"):
            list(self.app(environ, lambda *_: None))
        environ["connection"].shutdown(socket.SHUT_RDWR)
        raise ConnectionAbortedError  # which wsgiref takes for a client that went away


class Handler(WSGIRequestHandler):
    def get_environ(self):
        return super().get_environ() | {"connection": self.connection}

    def log_message(self, *_):
        pass


class Server(ThreadingMixIn, WSGIServer):
    daemon_threads = True
    request_queue_size = 64


def main():
    folder, port = Path(sys.argv[1]), int(sys.argv[2])
    os.environ["_MLFLOW_SERVER_SERVE_ARTIFACTS"] = "true"
    os.environ["_MLFLOW_SERVER_ARTIFACT_DESTINATION"] = (folder / "artifacts").as_uri()
    from mlflow.server import app, handlers

    handlers.initialize_backend_stores(f"sqlite:///{folder}/mlflow.db", None, "mlflow-artifacts:/")
    make_server("127.0.0.1", port, Faults(app, folder / "fault.json"), Server, Handler).serve_forever()


if __name__ == "__main__":
    main()
