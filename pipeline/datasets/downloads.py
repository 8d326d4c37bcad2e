"""Bring one file over HTTP: resumed where it broke off, asked for again after a pause, given up with a reason."""

import logging
import re
import sys

import requests
from requests.adapters import HTTPAdapter
from tqdm import tqdm
from urllib3.exceptions import HTTPError, MaxRetryError, ProtocolError
from urllib3.util import Retry

from pipeline.datasets.files import told
from pipeline.errors import ExperimentError

logger = logging.getLogger(__name__)

CHUNK = 1 << 18  # bytes; what a broken connection can cost
TIMEOUT = (10, 60)  # seconds to connect, and between two reads
ATTEMPTS = 5  # in a row without a single new byte
BACKOFF = 1.0  # seconds; doubles with each attempt
PATIENCE = 60  # seconds; the longest pause, also where a server asks for more
TRANSIENT = (429, 500, 502, 503, 504)
BROKEN_OFF = (requests.ConnectionError, requests.Timeout, requests.exceptions.ChunkedEncodingError)
LOG_EVERY = 30  # seconds between two states of a progress bar that nobody watches


class Unreachable(ExperimentError):
    """The server does not give the file; the message is the reason only."""


class Stopped(Exception):
    """Somebody set the event that stops a download."""


def download(url, size, part, name, stop):
    """Let `part` grow to `size` bytes, going on where an earlier attempt or run stopped.

    What arrives counts, not what the server says about it; nothing is verified but the size.

    Args:
        url: of the file.
        size: bytes it has to have.
        part: path of the growing file; its folder exists.
        name: for progress and messages.
        stop: `threading.Event` that ends the download; then it can be resumed.

    Raises:
        Unreachable: no answer, no success after all attempts.
        ExperimentError: more bytes than expected, or the disk does not take them; the former removes `part`.
        Stopped: `stop` was set.
    """
    have = part.stat().st_size if part.exists() else 0
    session = requests.Session()
    retry = Retry(
        ATTEMPTS,
        connect=2,
        backoff_factor=BACKOFF,
        backoff_max=PATIENCE,
        status_forcelist=TRANSIENT,
        retry_after_max=PATIENCE,
    )
    for scheme in ("http://", "https://"):
        session.mount(scheme, HTTPAdapter(max_retries=retry))
    stalled, furthest = retry, have  # the adapter retries requests; these count bodies that broke off
    try:
        with session, progress(size, f"downloading {name}", have) as bar:
            while have != size:
                try:
                    _request_rest(session, url, size, part, bar, stop)
                except BROKEN_OFF as error:
                    if isinstance(_cause(error), MaxRetryError):
                        raise  # the adapter has retried this one
                    logger.info("%s: connection lost (%s)", name, _reason(error))
                have = part.stat().st_size if part.exists() else 0
                if have > size:
                    part.unlink()
                    raise ExperimentError(
                        f"{url}: the server sends more than the expected {size} bytes; run "
                        "`python -m stages.download` again, or correct bytes of the entry in "
                        "pipeline/experiments/datasets.yaml"
                    )
                if have < size:
                    broken = f"the answer ended after {have} of {size} bytes"
                    stalled, furthest = (retry, have) if have > furthest else (stalled, furthest)
                    stalled = stalled.increment("GET", url, error=ProtocolError(broken))
                    if stop.wait(stalled.get_backoff_time()):
                        raise Stopped
    except (requests.RequestException, HTTPError) as error:
        raise Unreachable(_reason(error)) from None
    except OSError as error:
        raise ExperimentError(f"cannot write {told(error, part)}") from None


def announced_size(url):
    """Bytes of a file, as its server announces them. Raises Unreachable without an answer, or one without a size."""
    retry = Retry(ATTEMPTS, connect=2, backoff_factor=BACKOFF, backoff_max=PATIENCE, status_forcelist=TRANSIENT)
    with requests.Session() as session:
        for scheme in ("http://", "https://"):
            session.mount(scheme, HTTPAdapter(max_retries=retry))
        try:
            with session.get(url, headers={"Accept-Encoding": "identity"}, stream=True, timeout=TIMEOUT) as response:
                response.raise_for_status()
                size = response.headers.get("Content-Length", "")
        except (requests.RequestException, HTTPError) as error:
            raise Unreachable(_reason(error)) from None
    if not size.isdecimal() or not int(size):
        raise Unreachable("the server announces no size")
    return int(size)


def _request_rest(session, url, size, part, bar, stop):
    """One request for what is missing of `part`; a server that ignores ranges sends all of it again."""
    have = part.stat().st_size if part.exists() else 0
    headers = {"Accept-Encoding": "identity"}
    if have:
        headers["Range"] = f"bytes={have}-"
    with session.get(url, headers=headers, stream=True, timeout=TIMEOUT) as response:
        sent = re.match(r"bytes (\d+)-\d+/(\d+)?", response.headers.get("Content-Range", ""))
        partial = response.status_code == requests.codes.partial_content
        if response.status_code == requests.codes.requested_range_not_satisfiable or (
            partial and not (sent and int(sent[1]) == have)
        ):
            part.unlink(missing_ok=True)  # what we have is not a part of the server's file: begin again
            bar.reset()
            return
        response.raise_for_status()
        announced = sent[2] if partial else response.headers.get("Content-Length")
        if announced and announced != str(size):
            logger.warning("%s: expected %d bytes, the server announces %s; the right file?", url, size, announced)
        if not partial:
            bar.reset()
        with open(part, "ab" if partial else "wb") as file:
            for chunk in response.iter_content(CHUNK):
                if stop.is_set():
                    raise Stopped
                file.write(chunk)
                bar.update(len(chunk))
                if file.tell() > size:
                    return


def progress(total, title, done=0):
    """Give a bar with speed and remaining time; into a log file it is written seldom."""
    interval = 1 if sys.stderr.isatty() else LOG_EVERY
    return tqdm(total=total, initial=done, desc=title, unit="B", unit_scale=True, mininterval=interval)


def _cause(error):
    """The exception that another one wraps, or `None`."""
    return next((argument for argument in reversed(error.args) if isinstance(argument, Exception)), None)


def _reason(error):
    """The innermost reason of nested requests and urllib3 exceptions, on one line."""
    while isinstance(inner := getattr(error, "reason", None) or _cause(error), Exception):
        error = inner
    return " ".join(str(error).split()) or type(error).__name__
