"""Read a JSON object with lists too long for memory, and write what `json.dumps` would write, only faster.

The file is mapped, and its lists are parsed in blocks that stay in the processor's cache. Where a block may end is
guessed from the bytes; what settles it is that it parses, because no JSON object is the beginning of another one.
"""

import codecs
import itertools
import json
import mmap
import os
import re
import stat
from functools import partial

import orjson

SPACE = re.compile(rb"[ \t\n\r]*")
OBJECT_END = re.compile(rb"\}[ \t\n\r]*[,\]]")
CANDIDATES = 8  # ends of an object to try with the fast parser; COCO's need one, crowd annotations two
BLOCK = 1 << 15  # bytes to parse at once; a megabyte costs twice as much
TOGETHER = 128  # entries to hand on at least; what looks at them has a cost for each lot
WINDOW = 1 << 16  # bytes to look at first where the fast parser gives up
CUT = 64  # characters; an end or an error this close to the end of a window may come from the cut
RELEASE = 1 << 24  # bytes; what was read so long ago is no longer counted as our memory
# Where orjson and json may write a number differently: with an exponent (so are integers beyond 64 bits, which orjson
# reads as floats), the least that orjson writes without one, and what is not a number.
DOUBTFUL = (b"+", b"e-", b"0.0000", b"null")  # a single byte is found at once; few texts have a plus


class MalformedJson(ValueError):
    """Not JSON; the message says what is wrong at which byte."""


def without_repetition(pairs):
    """Make an object of its members, a hook of the `json` module. Raises MalformedJson if a name stands twice."""
    members = dict(pairs)
    if len(members) < len(pairs):
        names = [name for name, _ in pairs]
        raise MalformedJson(f"'{next(name for name in names if names.count(name) > 1)}' stands twice in an object")
    return members


DECODER = json.JSONDecoder(object_pairs_hook=without_repetition)


class Source:
    """The bytes that some successive entries of a list were parsed from.

    Attributes:
        strict: whether the fast parser took them, so that they are JSON to the letter: no NaN, no Infinity.
    """

    __slots__ = ("_bytes", "_start", "_end", "strict")

    def __init__(self, content, start, end, strict):
        self._bytes, self._start, self._end, self.strict = content, start, end, strict

    def __call__(self, **options):
        """Parse them with `json.loads`, which takes options such as `object_pairs_hook`."""
        return json.loads(b"[" + self.text() + b"]", **options)

    def text(self):
        return self._bytes[self._start : self._end]


class StreamedObject:
    """Pass once through a file that holds one JSON object.

    Attributes:
        members: names and values of its members; `...` for a list that was streamed.
        kind: type of what the file holds; if that is not `dict`, there are no members.
    """

    def __init__(self, path, lists, visit):
        """Read a file.

        Args:
            path: of a UTF-8 file.
            lists: names of the members to stream, where they are lists.
            visit: called as `visit(name, position, entries, again)` with successive entries of those lists, the
                first being at `position`. Integers beyond 64 bits may be floats there; `again()`, a `Source`,
                parses the same entries with the `json` module.

        Raises:
            MalformedJson: not JSON, a member stands twice, or not a regular file, which is not opened.
            UnicodeDecodeError, RecursionError: as `json.loads`.
            OSError: as `open`.
        """
        self.members, self.kind = {}, dict
        self._released = self._by_element_until = 0
        if not stat.S_ISREG(os.stat(path).st_mode):  # to open a pipe or a device could wait without end
            raise MalformedJson("it is not a regular file")
        with open(path, "rb") as file:
            if not file.seek(0, 2):
                raise MalformedJson("the file is empty")
            self._bytes = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        self._read_members(lists, visit)

    def _read_members(self, lists, visit):
        at = self._skip(len(codecs.BOM_UTF8) if self._bytes[:3] == codecs.BOM_UTF8 else 0)
        if self._bytes[at : at + 1] != b"{":
            value, at = self._value(at)
            self.kind = type(value)
            return self._require_end(at)
        at, another = self._open(at, b"}")
        while another:
            name, at = self._value(at)
            if not isinstance(name, str):
                raise MalformedJson(f"a name is due before byte {at}")
            if name in self.members:
                raise MalformedJson(f"'{name}' stands twice")
            at = self._skip(at)
            if self._bytes[at : at + 1] != b":":
                raise MalformedJson(f"':' is due at byte {at}")
            at = self._skip(at + 1)
            if name in lists and self._bytes[at : at + 1] == b"[":
                self.members[name], at = ..., self._read_list(at, partial(visit, name))
            else:
                self.members[name], at = self._value(at)
            at, another = self._next(at, b"}")
        return self._require_end(at)

    def _read_list(self, start, visit):
        position, entries, strict = 0, [], True
        at, another = self._open(start, b"]")
        begin = at
        while another:
            more, end, exact = self._entries(at)
            entries += more
            strict &= exact
            at, another = self._next(end, b"]")
            if len(entries) >= TOGETHER or not another:
                visit(position, entries, Source(self._bytes, begin, end, strict))
                position, begin, entries, strict = position + len(entries), at, [], True
            self._release(begin)
        return at

    def _open(self, at, close):
        """Step over an opening bracket: where to go on, and whether anything comes before `close`."""
        at = self._skip(at + 1)
        empty = self._bytes[at : at + 1] == close
        return at + empty, not empty

    def _next(self, at, close):
        """Step over the separator behind a value: where to go on, and whether another value follows."""
        at = self._skip(at)
        separator = self._bytes[at : at + 1]
        if separator == b",":
            return self._skip(at + 1), True
        if separator == close:
            return at + 1, False
        raise MalformedJson(f"',' or '{close.decode()}' is due at byte {at}")

    def _require_end(self, at):
        if (at := self._skip(at)) != len(self._bytes):
            raise MalformedJson(f"the object ended, but more follows at byte {at}")

    def _skip(self, at):
        return SPACE.match(self._bytes, at).end()

    def _entries(self, at):
        """Parse some entries of a list from an offset on; gives them, the offset behind, and if they are strict."""
        if at >= self._by_element_until:
            block = self._bytes[at : at + BLOCK]
            cut = (block.rfind(b"},{") + 1) or (block.rfind(b"}, {") + 1)
            try:
                return orjson.loads(b"[" + block[:cut] + b"]" if cut else b""), at + cut, True
            except orjson.JSONDecodeError:  # such as at the end of a list
                self._by_element_until = at + BLOCK
        return self._element(at)

    def _element(self, at):
        """Do the same with the one entry at an offset."""
        if self._bytes[at : at + 1] == b"{":
            for candidate in itertools.islice(OBJECT_END.finditer(self._bytes, at), CANDIDATES):
                end = candidate.start() + 1
                try:
                    return [orjson.loads(self._bytes[at:end])], end, True
                except orjson.JSONDecodeError:
                    continue
        value, end = self._value(at)
        return [value], end, False

    def _value(self, at):
        """Parse the value at an offset, slowly but able to tell where it ends and what is wrong with it."""
        size = WINDOW
        while True:
            last = at + size >= len(self._bytes)
            text = codecs.getincrementaldecoder("utf-8")("surrogatepass").decode(self._bytes[at : at + size], last)
            try:
                value, end = DECODER.raw_decode(text)
                if last or end < len(text) - CUT:  # a number may go on behind the window
                    return value, at + _length(text[:end])
            except json.JSONDecodeError as error:
                if last or (error.pos < len(text) - CUT and "Unterminated" not in error.msg):
                    raise MalformedJson(f"{error.msg} at byte {at + _length(text[: error.pos])}") from None
            size *= 4

    def _release(self, at):
        """Let the system take back the pages of what was read; they are a copy of the file."""
        if at - self._released >= RELEASE and hasattr(mmap, "MADV_DONTNEED"):
            length = (at - self._released) // RELEASE * RELEASE
            self._bytes.madvise(mmap.MADV_DONTNEED, self._released, length)
            self._released += length


def _length(text):
    return len(text.encode("utf-8", "surrogatepass"))


def compact(value):
    """`json.dumps` without white space and escapes, as bytes."""
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode()


def fast_dumps(value):
    """Do the same in a fifth of the time, if `like_compact` is true of the result.

    Raises:
        TypeError: integers beyond 64 bits, or text that is no Unicode.
    """
    return orjson.dumps(value)


def like_compact(text):
    """Whether what `fast_dumps` gave is for sure what `compact` gives for the value as the `json` module parses it."""
    return not any(pattern in text for pattern in DOUBTFUL)
