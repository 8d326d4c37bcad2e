"""Eight writers, an MLflow server on PostgreSQL, both gone in the middle: `make test-postgres`."""

import pytest

from tests.tracking.outage import outage, postgres_programs, private_folder

pytestmark = [
    pytest.mark.postgres,
    pytest.mark.slow,
    pytest.mark.skipif(postgres_programs() is None, reason="no PostgreSQL (Debian: apt-get install postgresql)"),
]


def test_no_point_is_lost_or_doubled():
    with private_folder() as folder:
        for name, value in outage(folder).items():
            print(f"{name}: {value}")
