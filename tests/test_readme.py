"""The code of the README and of other pages runs as written."""

import pathlib
import re

import jax
import numpy as np
import pytest

FOLDER = pathlib.Path(__file__).parent.parent
README = (FOLDER / "README.md").read_text()


def run(page: str) -> dict:
    """What the code of a page defines, run as a user runs it."""
    namespace: dict = {}
    # Optax does not keep to strict promotion.
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        for block in re.findall(r"```python\n(.*?)```", page, flags=re.DOTALL):
            exec(block, namespace)
    return namespace


@pytest.mark.heavy
def test_readme_code_runs_as_written():
    namespace = run(README)
    assert (namespace["values"]["ne/window_ne"] < 0.5).all()
    routes = [namespace[name] for name in ("by_fold", "by_sharding")]
    routes.append({name: value[0] for name, value in namespace["by_pmap"].items()})
    for route in routes:
        for name, value in routes[0].items():
            np.testing.assert_allclose(route[name], value, rtol=1e-6)


def test_code_for_those_who_come_from_torchrec_runs_as_written():
    namespace = run((FOLDER / "docs" / "coming_from_torchrec.md").read_text())
    np.testing.assert_allclose(namespace["bias"]["bias-DefaultTask|lifetime_bias"], [0.05])
    assert (namespace["values"]["ne/lifetime_ne"] < 1).all()


def test_readme_commands_set_up_their_own_environment():
    commands = re.findall(r"```bash\n(.*?)```", README, flags=re.DOTALL)
    assert len(commands) == 2
    for command in commands:
        assert command.startswith("python3 -m venv .venv && .venv/bin/pip install")
        script = command.split(".venv/bin/python ")[1].split()[0]
        assert script == "-m" or (FOLDER / script).exists()
