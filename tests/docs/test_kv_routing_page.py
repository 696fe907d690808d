"""The page on routing by KV cache says what the code does: its options, modes, metrics and numbers."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from prometheus_client import Metric

from dynamo._core.prefix_index import WorkerKey
from dynamo.frontend._router_metrics import router_metrics
from dynamo.llm import Candidate, KvRouterConfig, RouterMode
from dynamo.llm._kv_router.cost import Weights, pick, preference, weigh
from dynamo.llm._kv_router.decision import DECISIONS_MAX, Decisions
from dynamo.llm._kv_router.load import Load, WorkerFacts
from dynamo.llm._kv_router.prompt import Prompt
from dynamo.llm._kv_router.stats import RouterStats
from dynamo.llm._router_settings import RouterSettings
from dynamo.llm._routing import Asked, Route, RoutingConstraints
from dynamo.runtime._settings import options_of

PAGE = (Path(__file__).parents[2] / "docs" / "kv-routing.md").read_text()
BLOCK_SIZE, NUM_TOKENS = 16, 100


def table(heading: str) -> list[list[str]]:
    """The rows of the table whose heading begins so."""
    _, begin, rest = PAGE.partition(f"| {heading} |")
    assert begin, f"no table has the heading {heading!r}"
    lines = rest.partition("\n\n")[0].splitlines()[2:]
    return [[cell.strip(" `") for cell in line.strip("|").split("|")] for line in lines]


def shown(default: object) -> str:
    if isinstance(default, bool):
        return "on" if default else "off"
    return "none" if default is None else str(default)


def test_every_option_is_there_with_its_default() -> None:
    assert [(row[0], row[1]) for row in table("Option")] == [
        (option.flag, shown(option.declared.default)) for option in options_of(RouterSettings)
    ]


def test_every_mode_is_there() -> None:
    assert {row[0] for row in table("`--router-mode`")} == {mode.value for mode in RouterMode}


def test_the_worked_example_is_what_the_router_computes() -> None:
    rows = [[float(cell) for cell in cells] for _, *cells in table("Worker | Cached blocks")]
    loads = [Load(WorkerKey(number), WorkerFacts()) for number in range(len(rows))]
    for load, (_, tokens, held, num_requests, *_) in zip(loads, rows, strict=True):
        load.prefill_tokens, load.decode_blocks, load.num_requests = int(tokens), int(held), int(num_requests)
    prompt, weights = Prompt(NUM_TOKENS, BLOCK_SIZE, []), Weights.of(KvRouterConfig())
    terms = weigh(prompt, loads, [int(row[0]) for row in rows], {}, weights)
    assert [[*one] for one in zip(terms.prefill_blocks, terms.decode_blocks, terms.costs, strict=True)] == [
        row[4:] for row in rows
    ]
    assert pick(terms.costs, terms.num_requests, 0.0, random.Random(1)) == 1
    assert "B is taken" in PAGE
    [idle] = weigh(prompt, [Load(WorkerKey(0), WorkerFacts())], [6], {}, weights).costs
    assert f"were idle it would cost {idle:g}." in " ".join(PAGE.split())


def test_the_defaults_of_the_cost_are_what_the_page_says() -> None:
    config, text = KvRouterConfig(), " ".join(PAGE.split())
    for name in ("prefill_load_scale", "overlap_score_credit", "decode_active_request_weight"):
        assert f"`{name}` is {getattr(config, name):g}." in text


@pytest.mark.parametrize(("weight", "factor"), [(1.0, "0.47 for a weight of 1"), (-1.0, "2.14 for -1")])
def test_preferences_weigh_what_the_page_says(weight: float, factor: str) -> None:
    constraints = RoutingConstraints(preferred_taints={"h100": weight})
    load = Load(WorkerKey(0), WorkerFacts(taints=frozenset({"h100"})))
    assert f"{preference(constraints, load):.2f}" == factor.split()[0]
    assert factor in PAGE


def test_a_candidate_has_what_the_page_says() -> None:
    sentence = PAGE.partition("A candidate has ")[2].partition(", which is what")[0]
    assert sorted(sentence.split("`")[1::2]) == sorted(Candidate.__dataclass_fields__)


def test_so_many_decisions_are_kept() -> None:
    assert f"The last {DECISIONS_MAX} decisions" in PAGE


class QuietRouter:
    """A router that has counted nothing yet."""

    def __init__(self) -> None:
        self.decisions = Decisions()
        self.stats = RouterStats()

    def queue_lengths(self) -> dict[str, int]:
        return {}

    def index_stats(self) -> None:
        return None

    def num_sent_blocks(self) -> None:
        return None

    async def place(self, asked: Asked) -> Route:
        raise NotImplementedError

    async def close(self) -> None:
        pass


def test_every_metric_of_the_router_is_there() -> None:
    exposed = router_metrics(lambda: {"model": QuietRouter()}).collect()
    assert [row[0] for row in table("Name")] == [_name(metric) for metric in exposed]


def _name(metric: Metric) -> str:
    return f"{metric.name}_total" if metric.type == "counter" else metric.name
