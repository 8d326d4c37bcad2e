"""Keep passwords out of everything that is printed, logged, recorded or passed on: one function for URIs and free text.

What is secret is known in two ways: from the environment (`MLFLOW_TRACKING_PASSWORD`, AWS keys, any variable named
like these, and the addresses in all others), found again in every spelling; and from its place in the text
(`//user:password@`, `?password=`, `Authorization: Bearer`). In doubt rather too much is hidden than too little.

Imports only the standard library: the doctor uses it where nothing is installed.
"""

import functools
import logging
import os
import re
import sys
import traceback
from urllib.parse import quote, quote_plus, unquote, unquote_plus

HIDDEN = "***"

# Parts of the name of a variable, an option or a key of a query, whose value is secret.
_WORDS = (
    r"pass(?:word|wd|phrase|code)?|pwd|pw|secret|token|credentials?|api[-_.]?key|access[-_.]?key(?:[-_.]?id)?|"
    r"account[-_.]?key|private[-_.]?key|auth|signature|sig|sas"
)
_NAMED = re.compile(rf"(?i)(?:^|[-_.])(?:pg|db|my|sql|aws|ssl|user)?(?:{_WORDS})(?:$|[-_.])")
_NOT_SECRET = {"PWD", "OLDPWD"}
_PATHS = ("_FILE", "_PATH", "_PID", "_SOCK", "_DIR")

_KEY = rf"(?:[\w.-]*[-_.])?(?:pg|db|my|sql|aws|ssl|user)?(?:{_WORDS})(?:[-_.][\w.-]*)?"
# Behind the :// of an address with a host; what follows file:// and sqlite:// is a path, which has no password.
_HOST = r"(?<=://)(?<!file://)(?<!sqlite://)"
_PATTERNS = (
    # an @ behind ?password= belongs to the one or the other
    (re.compile(rf"(?i){_HOST}(?:(?!://)[^\n])*?[?&;]{_KEY}=(?:(?!://)[^\n])*@[^&\n]*"), HIDDEN),
    # //user:password@host; the password may hold anything but a further address, also / @ ? and spaces; a path has none
    (re.compile(_HOST + r"(?:(?!://)[^\n])*@(?=[^\s@])"), ""),
    # ?password=..., up to the next key: what belongs to a value with spaces cannot be told from what follows it
    (re.compile(rf"(?i)([?&;]{_KEY}=)[^&;\n]*"), rf"\1{HIDDEN}"),
    # "password": "...", password='a b', --token=..., MLFLOW_TRACKING_TOKEN=..., aws_secret_access_key = ...
    (
        re.compile(rf"""(?i)(?<![\w.-])(-*["']?{_KEY}["']?\s*[=:]\s*)(?:"(?:[^"\\\n]|\\.)*"|'(?:[^'\\\n]|\\.)*')"""),
        rf"\1{HIDDEN}",
    ),
    (re.compile(rf"""(?i)(?<![\w.-])(-*["']?{_KEY}["']?\s?=\s?)(?!\*\*\*)[^\s&"']+"""), rf"\1{HIDDEN}"),
    (re.compile(rf"(?i)(?<![\w.-])(--{_KEY}\s+)[^\s-]\S*"), rf"\1{HIDDEN}"),
    (
        re.compile(rf"(?i)(?<![\w.-])((?:password|passwd|secret|token|[\w.-]+[-_](?:{_WORDS}))\s?:\s+)(?!\*\*\*)\S+"),
        rf"\1{HIDDEN}",
    ),
    (re.compile(r"(?i)\b((?:basic|bearer|digest|negotiate)\s+)[\w.~+/=-]{6,}"), rf"\1{HIDDEN}"),
    (re.compile(r"\b(?:AKIA|ASIA)[0-9A-Z]{12,}\b"), HIDDEN),
)
_DELIMITERS = re.compile(r"[@/:?#\[\]\s&;%]+")


def redact_uri(uri):
    """An address without user, password and secret keys of its query: what names a store and stays the same."""
    scheme, separator, rest = uri.partition("://")
    if not separator:
        return _patterns(uri)
    if re.search(rf"(?i)[?&;]{_KEY}=.*@", rest, re.DOTALL):  # which belongs to the one or the other
        return f"{scheme}://{HIDDEN}"
    # the last @: one in a path or query is rare, one in a password that nobody encoded is not
    rest = rest if _is_path(scheme) else rest.rpartition("@")[2]
    address, mark, query = rest.partition("?")
    kept = [part for part in re.split("[&;]", query) if not _secret_name(unquote(part.partition("=")[0]))]
    return f"{scheme}://{address}" + (mark + "&".join(kept) if any(kept) else "")


def redact(text):
    """Text without the secrets of the environment and without what looks like one."""
    text = str(text)
    known = _known(tuple(sorted(_secrets_of_environment())))
    if known is None:
        return _patterns(text)
    pattern, replacements = known
    parts = pattern.split(text)  # what lies between, then a known one, and so on
    parts[::2] = map(_patterns, parts[::2])
    parts[1::2] = (replacements[part] for part in parts[1::2])
    return "".join(parts)


def needs_encoding(uri):
    """Whether user or password of an address hold characters that end them for every reader of addresses."""
    scheme, _, rest = uri.partition("://")
    userinfo, at, _ = rest.rpartition("@")
    ends = re.search(r"[@/?#\[\]\s]", userinfo) or userinfo.count(":") > 1
    return bool(at and ends) and not _is_path(scheme)


def install():
    """Redact what this process logs, by whichever library, and the tracebacks it ends with."""
    if getattr(logging.getLogRecordFactory(), "redacts", False):
        return
    former = logging.getLogRecordFactory()

    def factory(*args, **kwargs):
        record = former(*args, **kwargs)
        try:
            message = record.getMessage()
        except Exception:  # a bad format string: the handler reports it
            return record
        safe = redact(message)
        if safe != message:
            record.msg, record.args = safe, ()
        if record.exc_info and record.exc_info[0]:
            record.exc_text = redact("".join(traceback.format_exception(*record.exc_info)).rstrip())
        return record

    factory.redacts = True
    logging.setLogRecordFactory(factory)
    sys.excepthook = _excepthook


def _excepthook(kind, error, trace):
    sys.stderr.write(redact("".join(traceback.format_exception(kind, error, trace))))


def _patterns(text):
    for pattern, replacement in _PATTERNS:
        text = pattern.sub(replacement, text)
    return text


def _is_path(scheme):
    return scheme.partition("+")[0] in ("file", "sqlite")


def _secret_name(name):
    return bool(_NAMED.search(name))


def _secrets_of_environment():
    """(secret, what is shown for it) of every variable that holds one."""
    for name, value in os.environ.items():
        if "://" in value:
            whole = {value} if re.match(r"[\w+.-]+://", value) else set()  # spaces in a password included
            for uri in whole | set(re.findall(r"[\w+.-]+://[^\s\"']+", value)):
                if redact_uri(uri) != uri:
                    yield uri, redact_uri(uri)
                    yield from ((part, HIDDEN) for part in _parts(uri))
        elif name not in _NOT_SECRET and not name.endswith(_PATHS) and _secret_name(name):
            yield value, HIDDEN


def _parts(uri):
    """The passwords in an address, whole and in the pieces that a reader who splits it wrongly would name."""
    scheme, _, rest = uri.partition("://")
    userinfo, _, host = ("", "", rest) if _is_path(scheme) else rest.rpartition("@")
    passwords = [userinfo.partition(":")[2]] if ":" in userinfo else [userinfo]
    passwords += [
        value
        for key, _, value in (part.partition("=") for part in re.split("[&;]", host.partition("?")[2]))
        if _secret_name(unquote(key))
    ]
    for password in filter(None, passwords):
        yield password
        # `//user:a@b@host` read up to the first @ has the host `b@host`
        for match in _DELIMITERS.finditer(userinfo):
            yield userinfo[match.end() :] + "@" + host.partition("/")[0]
        for piece in _DELIMITERS.split(password):
            if len(piece) > 3:
                yield piece
            elif piece:
                yield from (f"'{piece}'", f'"{piece}"')


@functools.lru_cache(maxsize=8)
def _known(secrets):
    """(pattern with one group, {secret in every spelling: what is shown}) or None."""
    shown = {}
    for secret, replacement in secrets:
        decoded = {secret, unquote(secret), unquote_plus(secret)}
        spellings = {
            spelling
            for form in decoded
            for spelling in (
                form,
                quote(form),
                quote(form, ""),
                quote_plus(form),
                repr(form)[1:-1],
                form.encode("unicode_escape").decode(),
                form.strip(),
            )
        }
        for spelling in spellings:
            if len(spelling) > 1:
                shown.setdefault(spelling, replacement)
    if not shown:
        return None
    longest_first = sorted(shown, key=len, reverse=True)
    return re.compile("(" + "|".join(map(_whole_word_if_short, longest_first)) + ")"), shown


def _whole_word_if_short(secret):
    """A short secret is part of many words: hide it where it stands alone."""
    pattern = re.escape(secret)
    return rf"(?<!\w){pattern}(?!\w)" if len(secret) < 6 and secret.isalnum() else pattern
