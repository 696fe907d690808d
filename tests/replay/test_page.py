"""The report for people."""

from __future__ import annotations

import math
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import msgspec
import pytest

from dynamo._core.errors import InvalidArgument
from dynamo.replay import Figures, Goals, Report, Spread, TraceStats, WorkerFigures
from dynamo.replay._page import page, write_report
from dynamo.replay._picture import load_picture, waiting_picture


def figures(policy: str, ttft_s: float, *, hit_rate: float = 0.5) -> Figures:
    return Figures(
        policy=policy, num_requests=10, num_failed=0, errors={}, duration_s=10.0,
        ttft_s=Spread(ttft_s, ttft_s, ttft_s, 2 * ttft_s), itl_s=Spread(0.01, 0.01, 0.01, 0.02),
        latency_s=Spread(1.0, 1.0, 1.0, 1.0), hit_rate=hit_rate,
        load_max_over_mean=1.2, requests_max_over_mean=1.1, requests_per_s=1.0, output_tokens_per_s=1234.5,
        goodput_per_s=1.0, goodput=1.0, workers=[WorkerFigures(6, 1.5, 1000), WorkerFigures(4, 0.5, 800)],
        ttft_percentiles_s=[ttft_s * percent / 50 for percent in range(1, 101)],
    )  # fmt: skip


def report(*policies: Figures, is_complete: bool = True) -> Report:
    trace = TraceStats(10, 9.0, 1000.0, 50.0, 0.4)
    return Report(trace, 2, 1.0, None, Goals(), list(policies), is_complete=is_complete)


class Text(HTMLParser):
    """The words of a page, and whether every tag that opens is closed."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.words: list[str] = []

    def handle_starttag(self, tag: str, attrs: object) -> None:
        if tag != "meta":
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: object) -> None:
        """It is closed."""

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words.append(data.strip())


def read(html: str) -> list[str]:
    text = Text()
    text.feed(html)
    assert text.open == []
    return text.words


def test_a_page_shows_each_policy_with_its_figures() -> None:
    words = read(page(report(figures("kv", 0.1, hit_rate=0.61), figures("round-robin", 0.3))))
    assert {"kv", "round-robin", "100 ms", "300 ms", "61.0%", "50.0%"} <= set(words)


def test_the_best_of_several_stands_out() -> None:
    html = page(report(figures("kv", 0.1), figures("round-robin", 0.3)))
    assert '<td class="best">100 ms</td>' in html
    assert '<td class="best">300 ms</td>' not in html
    # The same for all is not the best of anything.
    assert '<td class="best">50.0%</td>' not in html


def test_a_page_needs_nothing_from_elsewhere() -> None:
    html = page(report(figures("kv", 0.1)))
    assert "<script" not in html
    assert html.count("http") == html.count('xmlns="http://www.w3.org/2000/svg"')


def test_a_name_is_text_whatever_is_in_it() -> None:
    assert "a<b>:c" in read(page(report(figures("a<b>:c", 0.1))))


def test_a_replay_that_was_stopped_says_so() -> None:
    said = " ".join(read(page(report(figures("kv", 0.1), is_complete=False))))
    assert "It was stopped before its end" in said


@pytest.mark.parametrize("ttft_s", [0.0, 1e-6, 0.1, 1.0, 500.0])
def test_pictures_are_svg_that_stays_in_its_frame(ttft_s: float) -> None:
    for picture in (waiting_picture, load_picture):
        svg = ElementTree.fromstring(picture([figures("kv", ttft_s), figures("round-robin", 0.3)]))
        _, _, width, height = map(float, svg.attrib["viewBox"].split())
        for line in svg.iter("{http://www.w3.org/2000/svg}polyline"):
            for point in line.attrib["points"].split():
                x, y = map(float, point.split(","))
                assert 0 <= x <= width
                assert 0 <= y <= height


def test_of_very_many_workers_those_with_most_to_do_are_shown() -> None:
    many = msgspec.structs.replace(
        figures("kv", 0.1), workers=[WorkerFigures(1, float(load), 100) for load in range(1000)]
    )
    picture = load_picture([many])
    assert picture.count("<rect") == 32
    assert ">999.0<" in picture
    assert "and 968 with less" in picture


def test_a_policy_without_answers_has_no_figures_and_no_line() -> None:
    nothing = Spread(math.nan, math.nan, math.nan, math.nan)
    empty = msgspec.structs.replace(
        figures("kv", 0.1), num_failed=10, ttft_s=nothing, itl_s=nothing, workers=[], ttft_percentiles_s=[]
    )
    html = page(report(empty))
    assert "-" in read(html)
    assert "polyline" not in html


def test_a_report_is_written_as_its_name_says(tmp_path: Path) -> None:
    for name, begin in (("report.html", "<!doctype html>"), ("report.json", "{")):
        write_report(report(figures("kv", 0.1)), tmp_path / name)
        assert (tmp_path / name).read_text().startswith(begin)


def test_a_report_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    with pytest.raises(InvalidArgument, match=r"report\.json cannot be written"):
        write_report(report(figures("kv", 0.1)), tmp_path / "nowhere" / "report.json")
