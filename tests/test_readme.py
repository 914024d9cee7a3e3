"""The README's code runs as written."""

import pathlib
import re

import jax
import numpy as np
import pytest

README = (pathlib.Path(__file__).parent.parent / "README.md").read_text()


@pytest.mark.heavy
def test_readme_code_runs_as_written():
    namespace: dict = {}
    # As a user runs it: optax does not keep to strict promotion.
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        for block in re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL):
            exec(block, namespace)
    assert (namespace["values"]["ne/window_ne"] < 0.5).all()
    routes = [namespace[name] for name in ("by_fold", "by_sharding")]
    routes.append({name: value[0] for name, value in namespace["by_pmap"].items()})
    for route in routes:
        for name, value in routes[0].items():
            np.testing.assert_allclose(route[name], value, rtol=1e-6)


def test_readme_commands_set_up_their_own_environment():
    commands = re.findall(r"```bash\n(.*?)```", README, flags=re.DOTALL)
    assert len(commands) == 2
    for command in commands:
        assert command.startswith("python3 -m venv .venv && .venv/bin/pip install")
        script = command.split(".venv/bin/python ")[1].split()[0]
        assert script == "-m" or (pathlib.Path(__file__).parent.parent / script).exists()
