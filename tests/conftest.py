"""Every test runs on four CPU devices, with strict promotion of dtypes and ranks."""

import importlib
import os
import pathlib
import sys

import jax
import pytest

from recmetrics_jax.adapter import _declaration, _passes

# Compilers take a third of the time, and programs somewhat more than users have; with
# JAX_DISABLE_MOST_OPTIMIZATIONS=0, the tests marked ``numerics`` run what users do.
IS_QUICK = os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1") == "1"
XLA_FLAGS = ["--xla_force_host_platform_device_count=4"]
if IS_QUICK and jax.__version_info__ < (0, 11):  # Later ones are as quick without.
    XLA_FLAGS.append("--xla_cpu_use_fusion_emitters=false")
os.environ["XLA_FLAGS"] = " ".join([os.environ.get("XLA_FLAGS", ""), *XLA_FLAGS])
# What is compiled is kept: for other processes, those that tests start too, and for the next run.
CACHE = os.environ.setdefault(
    "JAX_COMPILATION_CACHE_DIR", str(pathlib.Path(__file__).parent.parent / ".jax_cache")
)

jax.config.update("jax_platforms", os.environ.get("JAX_PLATFORMS", "cpu"))
jax.config.update("jax_disable_most_optimizations", IS_QUICK)
jax.config.update("jax_compilation_cache_dir", CACHE)
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.1)
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
    for interned in (_declaration.declarations, _declaration.formulas, _passes.statistics_of):
        interned.recent = 1000


@pytest.fixture
def load(request, monkeypatch):
    """A module from the folder of scripts that a test is of, its ``FOLDER``."""
    monkeypatch.syspath_prepend(request.module.FOLDER)
    yield importlib.import_module
    for path in request.module.FOLDER.glob("*.py"):
        sys.modules.pop(path.stem, None)
