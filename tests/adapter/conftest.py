"""What modules of the same metrics compile is kept from test to test."""

import pytest

from recmetrics_jax.adapter import _declared


@pytest.fixture(autouse=True, scope="session")
def kept_compilations():
    for interned in (_declared.declarations, _declared.shared, _declared.statistics_of):
        interned.recent = 1000
