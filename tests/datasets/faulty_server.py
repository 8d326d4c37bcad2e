"""A local HTTP server that misbehaves on request."""

import re
import threading
import time
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

SILENCE = 0.5  # seconds


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
    """

    def __init__(self, ranges=True, unavailable=0, drop_after=(), extra=b"", stall=0, shorten=0, status=None):
        self.ranges, self.unavailable, self.drop_after = ranges, unavailable, list(drop_after)
        self.extra, self.stall, self.shorten, self.status = extra, stall, shorten, status
        self.requests = []  # the Range header, or None, of each request


@contextmanager
def serve(files, faults=None):
    """Serve `{path: bytes}` on 127.0.0.1; yields `(base url, faults)`."""
    faults = faults or Faults()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            wanted = self.headers.get("Range")
            faults.requests.append(wanted)
            content = files.get(self.path.lstrip("/"))
            if faults.unavailable:
                faults.unavailable -= 1
                return self.send_error(503)
            if faults.status or content is None:
                return self.send_error(faults.status or 404)
            content = (content + faults.extra)[: len(content) + len(faults.extra) - faults.shorten]
            start = int(re.fullmatch(r"bytes=(\d+)-", wanted)[1]) if wanted and faults.ranges else 0
            if start and start >= len(content):
                return self.send_error(416)
            self.send_response(206 if start else 200)
            if start:
                self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
            self.send_header("Content-Length", str(len(content) - start))
            self.end_headers()
            stop = start + faults.drop_after.pop(0) if faults.drop_after else len(content)
            if faults.stall:
                faults.stall -= 1
                self.wfile.write(content[start : (start + stop) // 2])
                return time.sleep(SILENCE)
            self.wfile.write(content[start:stop])
            return None

        def log_message(self, *args):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", faults
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
