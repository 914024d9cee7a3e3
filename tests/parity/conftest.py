"""Prints, after the run, how much was compared with the reference and how closely it agreed."""

import sys


def pytest_terminal_summary(terminalreporter):
    streams = sys.modules.get("streams")
    if streams is not None and streams.TALLY.streams:
        terminalreporter.write_line(f"parity: {streams.TALLY}")
