"""The benchmarks run, with whatever peers are installed, and report what they measured."""

import json
import logging
import pathlib
import subprocess
import sys

import pytest

FOLDER = pathlib.Path(__file__).parent.parent / "benchmarks"


def run(*arguments):
    return subprocess.run(
        [sys.executable, FOLDER / "run.py", *map(str, arguments)],
        capture_output=True,
        encoding="utf-8",
        timeout=300,
    )


def test_all_cases_are_listed_under_distinct_names():
    names = run("--list").stdout.splitlines()
    assert len(names) == len(set(names))
    families = {name.split("/")[0] for name in names}
    assert families == {
        "update", "compute", "adapter", "stall", "train step", "merge", "compile", "memory",
        "catalogue", "spread",
    }  # fmt: skip


def test_a_case_is_measured_and_reported(tmp_path):
    filtered = ("--filter", "update/nine metrics, 1 task/256", "--rounds", 2, "--seconds", 0.001)
    result = run(*filtered, "--out", tmp_path)
    assert result.returncode == 0, result.stdout + result.stderr
    report = json.loads((tmp_path / "results.json").read_text())
    assert report["environment"]["versions"]["recmetrics_jax"]
    rows = {row["contender"]: row for row in report["rows"]}
    ours = rows["recmetrics_jax"]
    assert ours["unit"] == "ms"
    assert ours["times_ours"] == 1
    assert 0 < ours["quartiles"][0] <= ours["value"] <= ours["quartiles"][1]
    assert ours["size"] == 256
    text = (tmp_path / "results.md").read_text()
    assert all(f"| {contender} |" in text for contender in rows)


def test_a_case_that_fails_is_told_and_loses_no_other(load, monkeypatch, capsys):
    measuring, runner = load("measuring"), load("run")

    def fails(effort):
        raise RuntimeError("this peer is broken")

    cases = [
        measuring.Case("update", "broken", "1", 1, fails),
        measuring.Case(
            "update", "whole", "1", 1, lambda effort: [measuring.Row("ours", 2.5, "ms")]
        ),
    ]
    monkeypatch.setattr(runner, "FAMILIES", [type("Family", (), {"CASES": cases})])
    monkeypatch.setattr(sys, "argv", ["run.py"])
    monkeypatch.setattr(logging.root.manager, "disable", 0)  # Put back what main() sets.
    assert runner.main() == 1
    printed = capsys.readouterr().out
    assert "update/broken/1 failed" in printed
    assert "this peer is broken" in printed
    assert "| whole: 1 | ours | 2.5 ms |" in printed


def results(measuring):
    rows = [
        measuring.Row("recmetrics_jax", 0.5, "ms", (0.4, 0.6), 1.0),
        measuring.Row("torchrec", 2.0, "ms", (1.9, 2.2), 4.0),
        measuring.Row("memory", 123_456, "bytes"),
    ]
    return [
        (measuring.Case("update", "nine", f"{size} examples", size, lambda effort: []), rows)
        for size in (10, 100)
    ]


def test_the_report_has_tables_and_what_is_missing(load, tmp_path, monkeypatch):
    report = load("report")
    monkeypatch.setattr(report, "installed", lambda name: False)
    *paths, no_plot = report.write(tmp_path, results(load("measuring")))
    assert [pathlib.Path(path).name for path in paths] == ["results.json", "results.md"]
    assert no_plot == "no plot: matplotlib is not installed"
    text = (tmp_path / "results.md").read_text()
    assert "not measured: torchrec, torchmetrics, torcheval, metrax, clu, sklearn" in text
    assert "| nine: 10 examples | torchrec | 2 ms | 1.9 ... 2.2 | 4.00 |" in text
    assert "| nine: 100 examples | memory | 123,456 bytes |  |  |" in text


def test_the_report_has_a_plot(load, tmp_path):
    pytest.importorskip("matplotlib")
    load("report").write(tmp_path, results(load("measuring")))
    assert (tmp_path / "results.png").read_bytes().startswith(b"\x89PNG")


def test_timings_are_interleaved_and_compared_by_round(load):
    timing = load("timing")
    order = []
    contenders = {name: lambda calls, name=name: order.append((name, calls)) for name in "ab"}
    timings = timing.interleave(contenders, rounds=3, seconds=0)
    assert [name for name, _ in order[-6:]] == list("ababab")
    assert len(timings["a"].rounds) == 3
    assert timing.Timing([1.0, 2.0, 4.0]).ratio(timing.Timing([3.0, 4.0, 40.0])) == 3
    assert timing.Timing([5.0]).quartiles == (5.0, 5.0)
    assert timing.Timing([1.0, 9.0]).quartiles == (3.0, 7.0)
