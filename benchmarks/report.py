"""Results of all runs, side by side."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field

from benchmarks.figures import short, table, with_range


@dataclass(frozen=True)
class Measurement:
    """The figures of one cell in one run of one system."""

    system: str
    run: int
    workload: str
    concurrency: int
    figures: dict[str, float]


@dataclass(frozen=True)
class Column:
    """A figure to show, with its heading; `ratio` adds how our median compares, as ours / theirs."""

    figure: str
    heading: str
    ratio: bool = False


@dataclass
class Results:
    """Every measurement of a benchmark, in the order in which they were made."""

    measurements: list[Measurement] = field(default_factory=list)
    #: What is to be said below the table.
    remarks: str = ""

    def table(self, columns: Sequence[Column], ratio_heading: str) -> str:
        """Return one row per cell and system. The system measured first is ours: others are compared with it."""
        header = ["workload", "c", "system"]
        for column in columns:
            header += [column.heading, ratio_heading] if column.ratio else [column.heading]
        systems = list(dict.fromkeys(one.system for one in self.measurements))
        rows = [header]
        for workload, concurrency in dict.fromkeys((one.workload, one.concurrency) for one in self.measurements):
            cells = [self._runs(name, workload, concurrency) for name in systems]
            for name, runs in zip(systems, cells, strict=True):
                if runs:
                    rows.append([workload, str(concurrency), name, *_figures(columns, runs, cells[0])])
        return table(rows)

    def _runs(self, system: str, workload: str, concurrency: int) -> list[Measurement]:
        wanted = (system, workload, concurrency)
        return [one for one in self.measurements if (one.system, one.workload, one.concurrency) == wanted]


def _figures(columns: Sequence[Column], runs: Sequence[Measurement], ours: Sequence[Measurement]) -> list[str]:
    """Return what a row shows of its runs."""
    shown = []
    for column in columns:
        values = [run.figures[column.figure] for run in runs]
        shown.append(with_range(values))
        if column.ratio:
            reference = statistics.median(run.figures[column.figure] for run in ours) if ours else 0.0
            median = statistics.median(values)
            shown.append("" if runs is ours or not median else short(reference / median))
    return shown
