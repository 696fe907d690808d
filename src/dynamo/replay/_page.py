"""The report of a replay as a page for people: one file, without scripts, that needs nothing else."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

from dynamo._core.errors import InvalidArgument
from dynamo.replay._figures import Figures
from dynamo.replay._picture import color_of, load_picture, waiting_picture
from dynamo.replay._replay import Report

_STYLE = """
:root { color-scheme: light dark }
body { font: 15px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums }
th, td { text-align: right; padding: .25rem .6rem; border-bottom: 1px solid #8884 }
th:first-child, td:first-child { text-align: left }
.best { font-weight: 700 }
svg { width: 100%; height: auto; font: 12px system-ui, sans-serif; margin: .5rem 0 1.5rem }
svg text { fill: currentColor }
svg .small { font-size: 10px }
svg .grid { stroke: #8884 }
"""


@dataclass(frozen=True)
class Column:
    """A figure as people read it, and which of several is the best; None: none is better than another."""

    heading: str
    value: Callable[[Figures], float]
    shown: Callable[[float], str]
    best: Callable[[Sequence[float]], float] | None = min


def milliseconds(time_s: float) -> str:
    """A time with as many digits as mean something."""
    ms = time_s * 1000
    return "-" if ms != ms else f"{ms:,.0f} ms" if ms >= 100 else f"{ms:.1f} ms"


def percent(share: float) -> str:
    return f"{share:.1%}"


def ratio(value: float) -> str:
    return f"{value:.2f}"


def number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}"


COLUMNS = (
    Column("TTFT mean", lambda one: one.ttft_s.mean, milliseconds),
    Column("p50", lambda one: one.ttft_s.p50, milliseconds),
    Column("p90", lambda one: one.ttft_s.p90, milliseconds),
    Column("p99", lambda one: one.ttft_s.p99, milliseconds),
    Column("ITL mean", lambda one: one.itl_s.mean, milliseconds),
    Column("p99", lambda one: one.itl_s.p99, milliseconds),
    Column("hit rate", lambda one: one.hit_rate, percent, max),
    Column("load max/mean", lambda one: one.load_max_over_mean, ratio),
    Column("tokens/s", lambda one: one.output_tokens_per_s, number, max),
    Column("goodput", lambda one: one.goodput, percent, max),
    Column("failed", lambda one: one.num_failed, "{:.0f}".format),
)


def about(report: Report) -> list[str]:
    """What was replayed, in sentences."""
    trace, goals = report.trace, report.goals
    coming = (
        f"as they came, {report.arrival_speedup_ratio:g} times as fast"
        if report.replay_concurrency is None
        else f"{report.replay_concurrency} at a time"
    )
    lines = [
        f"{trace.num_requests:,} requests, {coming}, to {report.num_workers} simulated workers. Prompts have "
        f"{trace.input_length_mean:,.0f} tokens and answers {trace.output_length_mean:,.0f} on average; "
        f"{trace.reusable:.1%} of the prompts' tokens came before, and a cache without limits would find them.",
        f"Good are requests whose first token comes within {goals.ttft_s:g} s, and the others "
        f"{goals.itl_s * 1000:g} ms apart on average.",
    ]
    if not report.is_complete:
        lines.append("It was stopped before its end: these are the figures until then, and of different requests.")
    return lines


def best_of(column: Column, policies: Sequence[Figures]) -> str | None:
    """How the best value is shown; None if there is nothing to compare."""
    values = [column.value(one) for one in policies]
    shown = {column.shown(value) for value in values}
    return None if column.best is None or len(shown) < 2 else column.shown(column.best(values))


def page(report: Report) -> str:
    """Return the page."""
    policies = report.policies
    paragraphs = "\n".join(f"<p>{escape(line)}</p>" for line in about(report))
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n<title>Replay</title>\n'
        f"<style>{_STYLE}</style>\n</head>\n<body>\n<h1>Replay</h1>\n{paragraphs}\n{_table(policies)}\n"
        f"<h2>How long requests wait for their first token</h2>\n{waiting_picture(policies)}\n"
        f"<h2>How many requests each worker had, on average</h2>\n{load_picture(policies)}\n</body>\n</html>\n"
    )


def write_report(report: Report, path: Path) -> None:
    """Write a report as JSON or as a page, as the file's name says. Raises `InvalidArgument` if it cannot be."""
    data = page(report).encode() if path.suffix == ".html" else report.to_json()
    try:
        path.write_bytes(data)
    except OSError as error:
        raise InvalidArgument(f"the report {path} cannot be written: {error.strerror or error}") from error


def _table(policies: Sequence[Figures]) -> str:
    head = "".join(f"<th>{escape(text)}</th>" for text in ("policy", *(column.heading for column in COLUMNS)))
    rows = "\n".join(f"<tr>{''.join(_cells(index, one, policies))}</tr>" for index, one in enumerate(policies))
    return f"<table>\n<tr>{head}</tr>\n{rows}\n</table>"


def _cells(index: int, one: Figures, policies: Sequence[Figures]) -> Iterator[str]:
    yield f'<td><span style="color:{color_of(index)}">&#9632;</span> {escape(one.policy)}</td>'
    for column in COLUMNS:
        shown = column.shown(column.value(one))
        is_best = shown == best_of(column, policies)
        yield f'<td class="best">{shown}</td>' if is_best else f"<td>{shown}</td>"
