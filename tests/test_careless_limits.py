"""Limits of an engine that its memory does not hold: the field that is wrong is named."""

from __future__ import annotations

import pytest

from voltana.errors import ConfigError
from voltana.evaluation.scenario import load_scenario

REFUSED = {
    "prompts": (
        {"max_prefill_tokens": 10**9},
        r"engine\.max_prefill_tokens = 1000000000 .* at most the 4\d{5} tokens of the KV cache",
    ),
    "memory": (
        {"memory_fraction": 0.01},
        r"engine\.memory_fraction = 0\.01 .* at least 0\.2\d* for llama-3\.1-8b: its weights of 16 "
        r"GB .* The default is 0\.88",
    ),
    "memory for long batches": (
        {"memory_fraction": 0.2, "max_prefill_tokens": 400_000},
        r"engine\.max_prefill_tokens = 400000 .* at most the \d{4} tokens of the KV cache",
    ),
    "reserve": (
        {"reserved_decode_tokens": 10**9},
        r"engine\.reserved_decode_tokens = 1000000000 .* below the 4\d{5} tokens of the KV cache",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_the_limit_that_is_wrong_is_named(case: str) -> None:
    engine, said = REFUSED[case]
    with pytest.raises(ConfigError, match=said):
        load_scenario(None, {"engine": engine})


def test_the_share_that_is_named_is_enough() -> None:
    with pytest.raises(ConfigError) as refused:
        load_scenario(None, {"engine": {"memory_fraction": 0.1}})
    least = float(str(refused.value).partition("at least ")[2].split()[0])
    load_scenario(None, {"engine": {"memory_fraction": least}})


def test_a_model_that_never_fits_asks_for_boards() -> None:
    cluster = {"model": "llama-3.1-70b", "tensor_parallel": 1}
    with pytest.raises(ConfigError, match=r"tensor_parallel = 1 .* leave no room for KV cache"):
        load_scenario(None, {"cluster": cluster, "engine": {"memory_fraction": 0.5}})


def test_where_no_decode_instance_keeps_room_none_is_refused() -> None:
    cluster = {"prefill": 0, "decode": 0, "colocated": 2}
    load_scenario(None, {"cluster": cluster, "engine": {"reserved_decode_tokens": 10**9}})
