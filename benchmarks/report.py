"""The report of a run: JSON, Markdown tables and a plot."""

import dataclasses
import importlib
import importlib.metadata
import json
import os
import pathlib
import platform
import re
from collections.abc import Iterable, Sequence
from typing import Any

import jax
from measuring import OURS, Case, Row
from peers import PEERS, installed

Results = Sequence[tuple[Case, Sequence[Row]]]
PACKAGES = ("recmetrics_jax", "jax", "jaxlib", "numpy", "flax", "optax", *PEERS.values())
HEADER = "| {} | contender | figure | quartiles | times ours |\n|---|---|---|---|---|"


def environment() -> dict[str, Any]:
    """Device, cores, versions of packages, and the peers that are missing."""
    device = jax.devices()[0]
    versions = {}
    for package in dict.fromkeys(PACKAGES):
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return {
        "device": device.device_kind,
        "backend": f"{device.platform}: {device.client.platform_version}",
        "cores": os.cpu_count(),
        "processor": _processor(),
        "python": platform.python_version(),
        "versions": versions,
        "missing": [peer for peer in PEERS if not installed(peer)],
    }


def _processor() -> str:
    """The name of the processor, where the system tells it."""
    try:
        lines = pathlib.Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor())


def figure(value: float, unit: str) -> str:
    """A figure for people: three digits, or all of a whole number."""
    if (float(value).is_integer() and abs(value) >= 100) or unit == "bytes":
        return f"{value:,.0f} {unit}"
    return f"{value:.3g} {unit}"


def table_row(case: Case, row: Row) -> str:
    """A row of a Markdown table."""
    quartiles = "" if row.quartiles is None else " ... ".join(f"{x:.3g}" for x in row.quartiles)
    ratio = "" if row.times_ours is None else f"{row.times_ours:.2f}"
    cells = (f"{case.what}: {case.label}", row.contender, figure(row.value, row.unit))
    return f"| {' | '.join((*cells, quartiles, ratio))} |"


def header(family: str) -> str:
    """The head of a Markdown table."""
    return HEADER.format(family)


def markdown(about: dict[str, Any], results: Results) -> str:
    """The report as Markdown, a table for each family."""
    versions = ", ".join(f"{name} {version}" for name, version in about["versions"].items())
    lines = [
        "# Benchmarks of recmetrics_jax",
        "",
        f"{about['device']} ({about['backend']}), {about['cores']} cores of {about['processor']}, "
        f"Python {about['python']}; {versions}.",
        f"Not installed, so not measured: {', '.join(about['missing']) or 'none'}.",
        "",
        "Contenders of a row run in turns in one process. Figures are medians of rounds; `times "
        "ours` is the median of the ratios by round.",
    ]
    for family in dict.fromkeys(case.family for case, _ in results):
        lines += ["", f"## {family}", "", header(family)]
        lines += [
            table_row(case, row) for case, rows in results if case.family == family for row in rows
        ]
    return "\n".join(lines) + "\n"


def as_json(about: dict[str, Any], results: Results) -> str:
    """The report as JSON, a record for each row."""
    rows = [
        {
            "family": case.family,
            "what": case.what,
            "label": case.label,
            "size": case.size,
            **dataclasses.asdict(row),
        }
        for case, rows in results
        for row in rows
    ]
    return json.dumps({"environment": about, "rows": rows}, indent=1) + "\n"


def plot(path: pathlib.Path, results: Results) -> None:
    """A panel for each thing that was measured at several sizes."""
    matplotlib: Any = importlib.import_module("matplotlib")
    matplotlib.use("Agg")
    plt: Any = importlib.import_module("matplotlib.pyplot")
    panels: dict[tuple[str, str, str], dict[str, list[tuple[float, Row]]]] = {}
    units: dict[str, str] = {}  # What is counted along the axis: labels without their numbers.
    for case, rows in results:
        for row in rows:
            if case.size is not None:
                units[case.what] = re.sub(r"[\d,]+", "", case.label).strip()
                panel = panels.setdefault((case.family, case.what, row.unit), {})
                panel.setdefault(row.contender, []).append((case.size, row))
    panels = {key: lines for key, lines in panels.items() if max(map(len, lines.values())) > 1}
    if not panels:
        return
    columns = min(3, len(panels))
    figure_, axes = plt.subplots(
        -(-len(panels) // columns),
        columns,
        figsize=(6 * columns, 4.2 * -(-len(panels) // columns)),
        squeeze=False,
        layout="constrained",
    )
    for axis in axes.flat[len(panels) :]:
        axis.set_visible(False)
    for axis, ((family, what, unit), lines) in zip(axes.flat, panels.items(), strict=False):
        for name, points in sorted(lines.items(), key=lambda line: line[0] != OURS):
            sizes, rows = zip(*sorted(points, key=lambda point: point[0]), strict=True)
            (line,) = axis.plot(sizes, [row.value for row in rows], marker="o", label=name)
            if all(row.quartiles is not None for row in rows):
                low, high = zip(*(row.quartiles for row in rows), strict=True)
                axis.fill_between(sizes, low, high, color=line.get_color(), alpha=0.2)
        axis.set(title=f"{family}: {what}", xlabel=units[what], ylabel=unit)
        axis.set(xscale="log", yscale="log")
        axis.legend(fontsize="x-small")
    figure_.savefig(path, dpi=110)
    plt.close(figure_)


def write(folder: pathlib.Path, results: Iterable[tuple[Case, Sequence[Row]]]) -> list[str]:
    """Writes ``results.json``, ``results.md`` and, with matplotlib, ``results.png``.

    Returns:
        What was written, and what was not.
    """
    results = list(results)
    folder.mkdir(parents=True, exist_ok=True)
    about = environment()
    (folder / "results.json").write_text(as_json(about, results))
    (folder / "results.md").write_text(markdown(about, results))
    written = [str(folder / "results.json"), str(folder / "results.md")]
    if not installed("matplotlib"):
        return [*written, "no plot: matplotlib is not installed"]
    plot(folder / "results.png", results)
    return [*written, str(folder / "results.png")]
