"""Prints, after the run, how much was compared with the reference and how closely it agreed."""

import sys


def pytest_terminal_summary(terminalreporter):
    for name, title in (("streams", "parity"), ("test_adapter_streams", "parity of the adapter")):
        module = sys.modules.get(name)
        if module is not None and module.TALLY.streams:
            terminalreporter.write_line(f"{title}: {module.TALLY}")
