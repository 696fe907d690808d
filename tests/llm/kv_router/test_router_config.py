"""Options of routers: their values are checked, and none is ignored."""

from __future__ import annotations

import json

import pytest

from dynamo._core.errors import ConfigError
from dynamo.llm._kv_router.config import KvRouterConfig, PolicyClass, RouterConfig, RouterMode
from dynamo.llm._routing import RouterConfigOverride


def test_the_older_weight_sets_the_scale_of_prefill_and_warns() -> None:
    with pytest.warns(DeprecationWarning, match="prefill_load_scale"):
        config = KvRouterConfig(2.0)
    assert (config.prefill_load_scale, config.overlap_score_credit) == (2.0, KvRouterConfig().overlap_score_credit)


def test_the_older_weight_of_zero_ignores_caches_too() -> None:
    with pytest.warns(DeprecationWarning, match="overlap_score_credit=0"):
        config = KvRouterConfig(overlap_score_weight=0)
    assert (config.prefill_load_scale, config.overlap_score_credit) == (0.0, 0.0)


def test_the_order_of_positional_options_is_that_of_1_6() -> None:
    config = KvRouterConfig(None, 0.75, 0.25, 0.5, False)
    assert (config.router_temperature, config.use_kv_events) == (0.5, False)


def test_json_sets_options_by_either_of_their_names() -> None:
    config = KvRouterConfig.from_json('{"router_track_output_blocks": true, "assume_kv_reuse": false}')
    assert (config.router_track_output_blocks, config.router_assume_kv_reuse) == (True, False)


def test_an_unknown_option_is_refused_and_the_known_ones_are_named() -> None:
    with pytest.raises(ConfigError, match=r"no option 'overlap_weight'; did you mean .*it has .*overlap_score_credit"):
        KvRouterConfig.from_json('{"overlap_weight": 1}')


@pytest.mark.parametrize("name", ["event_threads", "prefill_load_model", "tracking_hash", "conditional_disagg"])
def test_an_option_without_a_meaning_here_is_refused_with_the_reason(name: str) -> None:
    with pytest.raises(ConfigError, match=f"{name} cannot be set: .+"):
        KvRouterConfig.from_json(json.dumps({name: 4}))


def test_an_option_that_lost_its_meaning_long_ago_is_accepted_with_a_warning() -> None:
    with pytest.warns(DeprecationWarning, match="durable_kv_events has no effect"):
        assert KvRouterConfig.from_json('{"durable_kv_events": true}') == KvRouterConfig()


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"router_temperature": -1}, "router_temperature is -1"),
        ({"prefill_load_scale": 1e308}, "prefill_load_scale is 1e[+]308"),
        ({"decode_active_request_weight": 1e7}, "from 0 to 1e[+]06"),
        ({"overlap_score_credit": "much"}, "overlap_score_credit is 'much'"),
        ({"queue_threshold": 0}, "queue_threshold is 0"),
        ({"queue_policy": "random"}, "queue_policy is 'random'"),
        ({"host_cache_hit_weight": 0.5}, "only blocks on the device are known"),
        ({"approximate_cache_policy": "lru"}, "for use_kv_events=False"),
        ({"use_kv_events": False, "predicted_ttl_secs": 5}, "set router_ttl_secs instead"),
        ({"policy_classes": [{"name": "a"}, {"name": "a"}]}, "names a class twice"),
        ({"policy_classes": [{"name": "a", "quantum": 0}]}, "quantum is 0"),
        ({"policy_classes": [{"name": "a", "limit": 0}]}, "limit"),
    ],
)
def test_a_wrong_value_is_refused_and_named(fields: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        KvRouterConfig.from_json(json.dumps(fields))


@pytest.mark.parametrize("text", ["", "[]", "1"])
def test_what_is_no_json_object_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="configuration is"):
        KvRouterConfig.from_json(text)


def test_a_copy_is_equal_and_keeps_what_was_set() -> None:
    config = KvRouterConfig(router_temperature=0.3, policy_classes=(PolicyClass("batch", queue_policy="wspt"),))
    assert config.copy() == config


def test_overrides_change_what_they_name_and_nothing_else() -> None:
    config = KvRouterConfig(decode_active_request_weight=2.0)
    changed = config.with_overrides(RouterConfigOverride(overlap_score_credit=0.0, track_prefill_tokens=False))
    assert (changed.overlap_score_credit, changed.router_track_prefill_tokens) == (0.0, False)
    assert changed.decode_active_request_weight == 2.0


def test_an_override_that_is_wrong_is_refused() -> None:
    with pytest.raises(ConfigError, match="router_temperature is -1"):
        KvRouterConfig().with_overrides(RouterConfigOverride(router_temperature=-1))


def test_a_mode_is_known_by_its_name_with_either_dash() -> None:
    assert RouterConfig("power_of_two").mode is RouterMode.PowerOfTwoChoices  # type: ignore[arg-type]


def test_an_unknown_mode_is_refused_and_the_known_ones_are_named() -> None:
    with pytest.raises(ConfigError, match="there are round-robin, random"):
        RouterConfig("fastest")  # type: ignore[arg-type]


def test_options_of_the_kv_router_are_refused_in_other_modes() -> None:
    with pytest.raises(ConfigError, match="the mode is random"):
        RouterConfig(RouterMode.Random, KvRouterConfig())


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("active_decode_blocks_threshold", 1.5),
        ("active_prefill_tokens_threshold", -1),
        ("session_affinity_ttl_secs", 0.5),
        ("session_affinity_mode", "loose"),
    ],
)
def test_limits_that_make_no_sense_are_refused(field: str, value: object) -> None:
    with pytest.raises(ConfigError, match=field):
        RouterConfig(**{field: value})  # type: ignore[arg-type]


@pytest.mark.parametrize("number", [10**400, 10**5000, -(10**400)], ids=["400 digits", "5000 digits", "negative"])
@pytest.mark.parametrize("name", ["overlap_score_credit", "router_ttl_secs"])
def test_a_number_that_no_float_can_be_is_refused_in_a_short_line(name: str, number: int) -> None:
    with pytest.raises(ConfigError, match=name) as caught:
        KvRouterConfig(**{name: number})  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=name) as of_a_file:
        KvRouterConfig.from_fields({name: number})
    assert max(len(error.value.message) for error in (caught, of_a_file)) < 200


def test_a_setting_of_all_modes_that_no_float_can_be_is_refused() -> None:
    with pytest.raises(ConfigError, match="session_affinity_ttl_secs is 1000"):
        RouterConfig(session_affinity_ttl_secs=10**400)
