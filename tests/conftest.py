"""Every test runs on four CPU devices, with strict promotion of dtypes and ranks."""

import os

os.environ["XLA_FLAGS"] = (
    f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count=4"
)
os.environ.setdefault("JAX_PLATFORMS", "cpu")

import jax
import pytest

jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")

MAX_EXECUTABLES = 1000


@pytest.fixture(autouse=True)
def bounded_executables():
    """Drops compiled functions before they are too many.

    On CPU each takes about 15 memory maps, of which Linux gives a process 65,530; one more, and
    the compiler crashes.
    """
    yield
    if len(jax.devices()[0].client.live_executables()) > MAX_EXECUTABLES:
        jax.clear_caches()
