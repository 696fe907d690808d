"""The options of a router, as people type them."""

from __future__ import annotations

import dataclasses

import pytest

from dynamo._core.errors import ConfigError
from dynamo.llm._kv_router.config import KvRouterConfig, PolicyClass, RouterConfig, RouterMode
from dynamo.llm._router_settings import _KV_NAMES, RouterSettings, router_fields
from dynamo.runtime._settings import options_of, read_settings


def read(*arguments: str, **environ: str) -> RouterConfig:
    return read_settings(RouterSettings, arguments, environ, prog="prog", description="").router_config()


def test_without_options_workers_are_asked_in_turn() -> None:
    assert read() == RouterConfig(RouterMode.RoundRobin)


def test_the_kv_router_has_its_own_defaults() -> None:
    assert read("--router-mode=kv") == RouterConfig(RouterMode.KV, KvRouterConfig())


@pytest.mark.parametrize("mode", RouterMode)
def test_every_mode_is_an_option(mode: RouterMode) -> None:
    assert read("--router-mode", mode.value).mode is mode


def test_variables_have_the_names_of_the_field() -> None:
    config = read(DYN_ROUTER_MODE="kv", DYN_ROUTER_USE_KV_EVENTS="false", DYN_ROUTER_TEMPERATURE="0.5")
    assert config.config == KvRouterConfig(use_kv_events=False, router_temperature=0.5)


def test_every_option_of_the_kv_router_that_can_be_set_can_be_set_here() -> None:
    fixed = {"host_cache_hit_weight", "disk_cache_hit_weight"}
    assert {field.name for field in dataclasses.fields(KvRouterConfig)} - fixed == set(_KV_NAMES.values())


def test_every_option_says_what_it_means() -> None:
    assert all(option.about for option in options_of(RouterSettings))


def test_policy_classes_are_json() -> None:
    config = read("--router-mode=kv", '--router-policy-classes=[{"name": "batch", "quantum": 64}]')
    assert config.config is not None
    assert config.config.policy_classes == (PolicyClass("batch", quantum=64),)


def test_sessions_and_load_limits_are_options() -> None:
    config = read(
        "--router-mode=kv", "--router-session-affinity-ttl-secs=60", "--router-session-affinity-mode=soft",
        "--active-decode-blocks-threshold=0.9",
    )  # fmt: skip
    assert (config.session_affinity_ttl_secs, config.session_affinity_mode) == (60.0, "soft")
    assert config.load_thresholds.active_decode_blocks_threshold == 0.9
    assert read("--router-session-affinity-ttl-secs=60").session_affinity_ttl_secs == 60.0


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--router-mode=best"], "--router-mode='best' must be one of round-robin"),
        (["--router-temperature=0.5"], "--router-temperature is for the router mode kv, and this one is round-robin"),
        (["--router-mode=random", "--no-router-use-kv-events"], "--router-use-kv-events is for the router mode kv"),
        (["--active-prefill-tokens-threshold=5"], "load thresholds are for the router mode kv"),
        (["--router-session-affinity-mode=soft"], "session_affinity_mode soft is for the router mode kv"),
        (["--router-mode=kv", "--router-policy-classes={"], "router_policy_classes is no JSON"),
        (["--router-mode=kv", '--router-policy-classes=[{"nam": 1}]'], "unknown field `nam`"),
        (["--router-mode=kv", "--router-approximate-cache-policy=lru"], "lru is for use_kv_events=False"),
        (["--router-mode=kv", "--router-temperature=-1"], "--router-temperature is -1.0: it must be 0 or more"),
    ],
)
def test_what_makes_no_sense_is_refused(arguments: list[str], words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        read(*arguments)
    assert words in str(caught.value)


def test_a_graph_names_a_mode_or_options_without_their_prefix() -> None:
    assert router_fields("kv") == {"router_mode": "kv"}
    given = {"mode": "kv", "temperature": 0.5, "router_use_kv_events": False, "active-decode-blocks-threshold": 0.5}
    assert router_fields(given) == {
        "router_mode": "kv",
        "router_temperature": 0.5,
        "router_use_kv_events": False,
        "active_decode_blocks_threshold": 0.5,
    }
    with pytest.raises(ConfigError, match=r"the router has no option 'mood'; did you mean 'mode'\? it has active_"):
        router_fields({"mood": "good"})
