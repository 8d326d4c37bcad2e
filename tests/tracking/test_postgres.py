"""Writers, an MLflow server on PostgreSQL, both gone in the middle: four of them, eight by `make test-postgres`."""

import os

import pytest

from tests.tracking.outage import outage, postgres_programs, private_folder

SMALLER = {} if os.environ.get("CONTRASTMASK_FULL") else {"writers": 4, "steps": 200}
pytestmark = [
    pytest.mark.postgres,
    pytest.mark.slow,
    pytest.mark.skipif(postgres_programs() is None, reason="no PostgreSQL (Debian: apt-get install postgresql)"),
]


def test_no_point_is_lost_or_doubled():
    with private_folder() as folder:
        for name, value in outage(folder, **SMALLER).items():
            print(f"{name}: {value}")
