"""No password leaves the program, whatever characters it has and wherever it stands."""

import logging
import os
import string
import subprocess
import sys
from urllib.parse import quote, quote_plus

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from pipeline import redaction
from pipeline.artifacts import paths
from pipeline.redaction import redact, redact_uri

# A mark in the middle, so that what is looked for cannot be part of the text around it by chance.
TEXT = st.text(string.ascii_letters + string.digits + " @/:?#%&=+;,.!$~*()[]'\"\\-_äß", max_size=6)
SECRETS = st.builds("{}Zq9x{}".format, TEXT, TEXT)
PLAIN = st.text(string.ascii_letters + string.digits, min_size=8, max_size=12)
MARK = "Zq9x"


def leaks(secret, text):
    spellings = {secret, quote(secret), quote(secret, ""), quote_plus(secret), repr(secret)[1:-1]}
    return [spelling for spelling in spellings if spelling in text]


@example("/Zq9x", "http", False)
@given(SECRETS, st.sampled_from(["http", "https", "postgresql", "postgresql+psycopg2", "mysql"]), st.booleans())
@settings(deadline=None)
def test_user_and_password_of_an_address(secret, scheme, encoded):
    password = quote(secret, "") if encoded else secret
    for user in ("me:", ":", ""):
        uri = f"{scheme}://{user}{password}@host:5000/path"
        assert redact_uri(uri) == f"{scheme}://host:5000/path"
        text = redact(f"store {uri}: cannot connect")
        assert MARK not in text and "host:5000/path" in text and "cannot connect" in text


@given(SECRETS, st.sampled_from(["password", "PASSWORD", "token", "sslpassword", "access_key", "api-key", "sig"]))
@settings(deadline=None)
def test_a_secret_in_the_query(secret, key):
    for value in {quote(secret, ""), quote_plus(secret)}:
        uri = f"postgresql://host/db?user=me&{key}={value}&connect_timeout=3"
        assert redact_uri(uri) == "postgresql://host/db?user=me&connect_timeout=3"
        assert MARK not in redact(f"cannot open {uri}")
    if not set(secret) & set("&;"):
        assert MARK not in redact(f"cannot open postgresql://host/db?{key}={secret}")


FORMS = [
    "MLFLOW_TRACKING_PASSWORD={}",
    "MLFLOW_TRACKING_TOKEN={}",
    "AWS_SECRET_ACCESS_KEY={}",
    "--password={}",
    "--token {}",
    '"password": "{}"',
    "{{'aws_secret_access_key': '{}'}}",
    "Authorization: Basic {}",
    "Authorization: Bearer {}",
    "host=db password={} user=me",
    "PGPASSWORD={} psql",
    "secret: {}",
    "X-Amz-Signature={}",
    "api_key = {}",
]


@pytest.mark.parametrize("form", FORMS)
@given(PLAIN)
@settings(deadline=None, max_examples=20)
def test_a_named_secret(form, secret):
    assert secret not in redact(f"run {form.format(secret)}")


@given(
    SECRETS,
    st.sampled_from(
        [
            "MLFLOW_TRACKING_PASSWORD",
            "MLFLOW_TRACKING_TOKEN",
            "AWS_SECRET_ACCESS_KEY",
            "AWS_SESSION_TOKEN",
            "PGPASSWORD",
            "WANDB_API_KEY",
        ]
    ),
)
@settings(deadline=None)
def test_a_secret_of_the_environment_in_any_text(secret, name):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(name, secret)
        for spelling in {secret, quote(secret), quote(secret, ""), quote_plus(secret), repr(secret)[1:-1]}:
            assert not leaks(secret, redact(f"the server said <{spelling}> and no more"))
            assert redact(f"said <{spelling}>, no more").endswith(", no more")


@given(SECRETS, st.booleans(), st.booleans())
@settings(deadline=None)
def test_the_tracking_uri_and_what_a_wrong_reading_makes_of_it(secret, encoded, query):
    password = quote(secret, "") if encoded or query else secret
    uri = f"postgresql://host/db?user=me&password={password}" if query else f"postgresql://me:{password}@host/db"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_URI", uri)
        text = redact(f"MLflow store {uri}: refused ({secret!r}, {password})")
        assert MARK not in text and "refused" in text
        piece = password.rpartition("@")[2] + "@host"
        assert MARK not in redact(f'could not translate host name "{piece}" to address')


@pytest.mark.parametrize(
    "text",
    [
        "MLflow store http://127.0.0.1:9: HTTPConnectionPool(host='127.0.0.1', port=9): Max retries exceeded",
        "FATAL: password authentication failed for user mlflow",
        "sqlite:////data/me@lab/mlruns/mlflow.db: is locked",
        "params.yaml: unknown key 'token'; did you mean 'tau'?",
        "sigma=0.3 tau_easy: recipe loss_mask: 0.3",
        "see http://127.0.0.1:5000/#/experiments/1/runs/0a1b",
        "3 passed, key_pooling: roi, min_keys=4",
        "git clone git@host:lab/contrastmask",
        "authors: X and Y",
        "/srv/pwd/data: no such folder",
    ],
)
def test_what_is_no_secret_stays(text):
    assert redact(text) == text


def test_variables_that_only_sound_like_secrets(monkeypatch):
    monkeypatch.setenv("TOKENIZERS_PARALLELISM", "false")
    monkeypatch.setenv("PWD", "/work")
    monkeypatch.setenv("SSH_AUTH_SOCK", "/tmp/agent")
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "at")
    assert redact("false data in /work, /tmp/agent") == "false data in /work, /tmp/agent"


def test_logs_of_any_library_and_tracebacks(tmp_path):
    program = (
        "import logging; from pipeline.cli import command\n"
        "@command\n"
        "def main():\n"
        "    logging.getLogger('pipeline.x').warning('at %s', 'http://me:Zq9x@host')\n"
        "    logging.getLogger('mlflow').error('cannot reach http://me:Zq9x@host')\n"
        "    try: raise OSError('password=Zq9x99')\n"
        "    except OSError: logging.getLogger('mlflow').exception('failed')\n"
        "    raise ValueError('postgresql://me:Zq9x@host')\n"
        "main()\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=paths.ROOT, capture_output=True, text=True, env=os.environ
    )
    assert done.returncode == 1 and MARK not in done.stdout + done.stderr
    for expected in ("at http://host", "cannot reach http://host", "password=***", "ValueError: postgresql://host"):
        assert expected in done.stderr, done.stderr


def test_an_error_of_the_user_is_redacted_too():
    program = (
        "from pipeline.cli import command; from pipeline.errors import ExperimentError\n"
        "@command\ndef main(): raise ExperimentError('no answer of https://me:a b/Zq9x@host')\nmain()"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=paths.ROOT, capture_output=True, text=True)
    assert done.stderr == "error: no answer of https://host\n"


def test_a_record_that_cannot_be_formatted_is_left_to_its_handler():
    redaction.install()
    assert logging.getLogRecordFactory()("x", 20, "", 0, "%d", ("no number",), None).args == ("no number",)
