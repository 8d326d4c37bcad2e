"""A local HTTP server that misbehaves on request."""

import random
import re
import threading
import time
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

SILENCE = 0.5  # seconds
PIECE = 1 << 14  # bytes; of an answer that drips

# Names for the scripts of `Faults`, each of one request.
STATUSES = {"busy": 503, "too many": 429, "bad gateway": 502, "broken": 500, "missing": 404, "forbidden": 403}
BODIES = (
    "drop",
    "nothing",
    "stall",
    "no ranges",
    "wrong range",
    "says more",
    "says less",
    "wrong bytes",
    "extra",
    "short",
    "login page",
)
SILENT = ("hang up", "garbage", "silent")
FAULTS = (*STATUSES, *BODIES, *SILENT)
FINAL = ("missing", "forbidden", "wrong bytes", "extra")  # no attempt mends these


class Faults:
    """What the server does wrong; counts down where it is a number of requests.

    Attributes:
        ranges: whether it honours Range requests.
        unavailable: number of requests to answer with 503.
        drop_after: lengths in bytes after which successive responses break off; then they are whole.
        extra: bytes appended to every whole response.
        stall: number of responses that fall silent half way; then they are whole.
        shorten: bytes missing from every response, with a Content-Length to match.
        status: answer every request with this status.
        before: called before each answer.
        drip: by path, seconds to wait after each `PIECE` of the answer.
        script: by path, names from `FAULTS` for successive requests; then it behaves. A last `...` repeats for ever
            what stands before it.
        seed: of what is random about the faults of a script.
    """

    def __init__(
        self,
        ranges=True,
        unavailable=0,
        drop_after=(),
        extra=b"",
        stall=0,
        shorten=0,
        status=None,
        before=None,
        drip=None,
        script=None,
        seed=0,
    ):
        self.ranges, self.unavailable, self.drop_after = ranges, unavailable, list(drop_after)
        self.extra, self.stall, self.shorten, self.status = extra, stall, shorten, status
        self.before, self.drip = before, drip or {}
        self.script = {path: list(names) for path, names in (script or {}).items()}
        self.random = random.Random(seed)
        self.requests = []  # the Range header, or None, of each request

    def next(self, path):
        """The fault of this request for a path, or `None`."""
        names = self.script.get(path)
        if not names:
            return None
        return names[0] if names[1:] == [...] else names.pop(0)


@contextmanager
def serve(files, faults=None):
    """Serve `{path: bytes}` on 127.0.0.1; yields `(base url, faults)`."""
    faults = faults or Faults()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            path, wanted = self.path.lstrip("/"), self.headers.get("Range")
            faults.requests.append(wanted)
            content = files.get(path)
            if faults.before:
                faults.before()
            if content is not None and (fault := faults.next(path)):
                return self.misbehave(fault, content, wanted)
            if faults.unavailable:
                faults.unavailable -= 1
                return self.send_error(503)
            if faults.status or content is None:
                return self.send_error(faults.status or 404)
            content = (content + faults.extra)[: len(content) + len(faults.extra) - faults.shorten]
            start = self.begin(content, wanted if faults.ranges else None)
            if start is None:
                return None
            stop = start + faults.drop_after.pop(0) if faults.drop_after else len(content)
            if faults.stall:
                faults.stall -= 1
                self.wfile.write(content[start : (start + stop) // 2])
                return time.sleep(SILENCE)
            if path in faults.drip:
                for offset in range(start, stop, PIECE):
                    self.wfile.write(content[offset : offset + PIECE])
                    time.sleep(faults.drip[path])
            else:
                self.wfile.write(content[start:stop])
            return None

        def begin(self, content, wanted, length=None, shift=0):
            """Send the head of an answer; gives where the body starts, `None` if there is none."""
            start = int(re.fullmatch(r"bytes=(\d+)-", wanted)[1]) if wanted else 0
            if start and start >= len(content):
                return self.send_error(416)
            start = max(0, start - shift)
            self.send_response(206 if wanted else 200)
            if wanted:
                self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
            self.send_header("Content-Length", str(len(content) - start if length is None else length))
            self.end_headers()
            return start

        def misbehave(self, fault, content, wanted):
            if fault in STATUSES:
                return self.send_error(STATUSES[fault])
            if fault == "hang up":
                return None
            if fault == "garbage":
                return self.wfile.write(b"\x16\x03\x01 this is no HTTP\r\n\r\n")
            if fault == "silent":
                return time.sleep(SILENCE)
            if fault == "login page":
                content, wanted = b"<html>Please log in to this network</html>", None
            if fault == "no ranges":
                wanted = None
            if fault == "wrong bytes":
                place = faults.random.randrange(len(content))
                content = content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :]
            if fault == "extra":
                content += b"more"
            if fault == "short":
                content = content[: -faults.random.randrange(1, len(content))]
            length = None
            if fault in ("says more", "says less"):
                length = faults.random.randrange(1, len(content)) + len(content) * (fault == "says more")
            start = self.begin(content, wanted, length, shift=1000 * (fault == "wrong range"))
            if start is None:
                return None
            body = content[start:]
            if fault in ("drop", "stall"):
                body = body[: faults.random.randrange(len(body))]
            self.wfile.write(b"" if fault == "nothing" else body)
            return time.sleep(SILENCE) if fault == "stall" else None

        def log_message(self, *args):
            pass

    class Server(ThreadingHTTPServer):
        def handle_error(self, request, client_address):
            pass  # a client that gives up in the middle is part of the game

    server = Server(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", faults
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
