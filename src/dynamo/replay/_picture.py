"""Pictures of a replay, as SVG: how long requests wait with each policy, and what each worker has to do.

Text and shapes only, so that a page with them needs nothing else, on any machine, in ten years.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from html import escape

from dynamo.replay._figures import Figures

#: Told apart by people who do not see all colours, too.
COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#7f7f7f", "#b2a000")
WIDTH, HEIGHT = 720, 330
LEFT, RIGHT, TOP, BOTTOM = 64, 150, 14, 44
BAR, GAP = 13, 3
#: Of more workers, those with most to do are shown.
BARS_MAX = 32


def color_of(index: int) -> str:
    """The color of the n-th policy, in every picture."""
    return COLORS[index % len(COLORS)]


def waiting_picture(policies: Sequence[Figures]) -> str:
    """Which part of the requests has its first token within which time. The times are logarithmic."""
    times = [time for one in policies for time in one.ttft_percentiles_s if time > 0]
    least = 10.0 ** math.floor(math.log10(min(times, default=0.01)))
    most = max(10.0 ** math.ceil(math.log10(max(times, default=1.0))), least * 10)
    parts = [*_axes(least, most)]
    for index, one in enumerate(policies):
        if not one.ttft_percentiles_s:
            continue
        points = " ".join(
            f"{_x(time, least, most):.1f},{_y(percent / 100):.1f}"
            for percent, time in enumerate(one.ttft_percentiles_s, 1)
        )
        parts.append(f'<polyline points="{points}" fill="none" stroke="{color_of(index)}" stroke-width="2"/>')
        parts += _legend(index, one.policy)
    return _svg(WIDTH, HEIGHT, "Part of the requests that have their first token within a time", parts)


def load_picture(policies: Sequence[Figures]) -> str:
    """How many requests each worker had on average: a bar for each, by policy, the longest first."""
    most = max((worker.load for one in policies for worker in one.workers), default=0.0) or 1.0
    parts: list[str] = []
    y = 0
    for index, one in enumerate(policies):
        parts.append(f'<text x="0" y="{y + 12}">{escape(one.policy)}</text>')
        busiest = sorted(one.workers, key=lambda worker: -worker.load)
        for worker in busiest[:BARS_MAX]:
            width = (WIDTH - 240) * worker.load / most
            parts.append(f'<rect x="160" y="{y}" width="{width:.1f}" height="{BAR}" fill="{color_of(index)}"/>')
            parts.append(f'<text x="{166 + width:.1f}" y="{y + 11}" class="small">{worker.load:.1f}</text>')
            y += BAR + GAP
        if len(busiest) > BARS_MAX:
            parts.append(f'<text x="160" y="{y + 11}" class="small">and {len(busiest) - BARS_MAX} with less</text>')
            y += BAR + GAP
        y += 3 * GAP
    return _svg(WIDTH, max(y, BAR), "Requests that each worker had on average", parts)


def _axes(least: float, most: float) -> Iterator[str]:
    for step in range(round(math.log10(most / least)) + 1):
        time = least * 10**step
        x = _x(time, least, most)
        yield f'<line x1="{x:.1f}" y1="{TOP}" x2="{x:.1f}" y2="{HEIGHT - BOTTOM}" class="grid"/>'
        yield f'<text x="{x:.1f}" y="{HEIGHT - BOTTOM + 16}" text-anchor="middle">{_seconds(time)}</text>'
    for share in (0.0, 0.25, 0.5, 0.75, 1.0):
        y = _y(share)
        yield f'<line x1="{LEFT}" y1="{y:.1f}" x2="{WIDTH - RIGHT}" y2="{y:.1f}" class="grid"/>'
        yield f'<text x="{LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">{share:.0%}</text>'
    middle = (LEFT + WIDTH - RIGHT) / 2
    yield f'<text x="{middle:.0f}" y="{HEIGHT - 8}" text-anchor="middle">time to first token</text>'


def _legend(index: int, name: str) -> Iterator[str]:
    x, y = WIDTH - RIGHT + 12, TOP + 16 * index
    yield f'<rect x="{x}" y="{y}" width="10" height="10" fill="{color_of(index)}"/>'
    yield f'<text x="{x + 16}" y="{y + 9}">{escape(name)}</text>'


def _x(time_s: float, least: float, most: float) -> float:
    share = math.log10(max(time_s, least) / least) / math.log10(most / least)
    return LEFT + share * (WIDTH - RIGHT - LEFT)


def _y(share: float) -> float:
    return HEIGHT - BOTTOM - share * (HEIGHT - BOTTOM - TOP)


def _seconds(time_s: float) -> str:
    return f"{time_s:g} s" if time_s >= 1 else f"{time_s * 1000:g} ms"


def _svg(width: int, height: int, title: str, parts: Sequence[str]) -> str:
    body = "\n".join(parts)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" role="img" '
        f'aria-label="{escape(title)}">\n{body}\n</svg>'
    )
