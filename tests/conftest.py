"""Every test runs on four CPU devices, with strict promotion of dtypes and ranks."""

import importlib
import os
import pathlib
import sys

os.environ["XLA_FLAGS"] = (
    f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count=4"
)
os.environ.setdefault("JAX_PLATFORMS", "cpu")
# What is compiled is kept: for the other processes of this run, and for the next run.
os.environ.setdefault(
    "JAX_COMPILATION_CACHE_DIR", str(pathlib.Path(__file__).parent.parent / ".jax_cache")
)
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.1")

import jax
import pytest

from recmetrics_jax.adapter import _declared

jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")

MAPS = pathlib.Path("/proc/self/maps")
MAX_MAPS = 30_000
LOOK_AFTER = 20  # executables, new or gone

_executables_seen = 0


@pytest.fixture(autouse=True)
def bounded_executables():
    """Drops compiled functions before they are too many.

    On CPU each takes 15 to 150 memory maps, of which Linux gives a process 65,530; one more, and
    the compiler crashes.
    """
    global _executables_seen
    yield
    count = len(jax.devices()[0].client.live_executables())
    if abs(count - _executables_seen) >= LOOK_AFTER and MAPS.exists():
        _executables_seen = count
        if MAPS.read_bytes().count(b"\n") > MAX_MAPS:
            jax.clear_caches()


@pytest.fixture(autouse=True, scope="session")
def kept_compilations():
    """What modules of the same metrics compile is kept from test to test."""
    for interned in (_declared.declarations, _declared.shared, _declared.statistics_of):
        interned.recent = 1000


@pytest.fixture(autouse=True, scope="module")
def compilations_as_users_have_them(request):
    """Only in modules marked ``numerics``; elsewhere compilers take two thirds of the time."""
    is_quick = request.node.get_closest_marker("numerics") is None
    if is_quick != jax.config.read("jax_disable_most_optimizations"):
        jax.clear_caches()
        jax.config.update("jax_disable_most_optimizations", is_quick)


@pytest.fixture
def load(request, monkeypatch):
    """A module from the folder of scripts that a test is of, its ``FOLDER``."""
    monkeypatch.syspath_prepend(request.module.FOLDER)
    yield importlib.import_module
    for path in request.module.FOLDER.glob("*.py"):
        sys.modules.pop(path.stem, None)
