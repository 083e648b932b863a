"""The test bed itself: a pair answers as the unified server does, and nothing is left behind."""

from __future__ import annotations

from typing import TYPE_CHECKING

import psutil

from servers import ServerSpec, generate_pd, wait_for

if TYPE_CHECKING:
    from servers import Fleet, Server

PROMPTS = (
    "the clock follows",
    "every token keeps its deadline " * 20,
    "a",
    "the load of a tiny model " * 40,
)
GREEDY = {"temperature": 0.0, "max_new_tokens": 24, "ignore_eos": True}


def test_a_pair_answers_as_the_unified_server(fleet: Fleet) -> None:
    unified, prefill, decode = fleet.get(
        ServerSpec(name="unified"),
        ServerSpec(name="prefill-0", role="prefill"),
        ServerSpec(name="decode-0", role="decode"),
    )
    for prompt in PROMPTS:
        alone = unified.generate(text=prompt, sampling_params=GREEDY)
        together = generate_pd(prefill, decode, text=prompt, sampling_params=GREEDY)
        assert together["output_ids"] == alone["output_ids"]
        assert len(alone["output_ids"]) == GREEDY["max_new_tokens"]


def test_a_decode_server_alone_takes_a_faked_transfer(fleet: Fleet) -> None:
    (decode,) = fleet.get(ServerSpec(name="decode-0", role="decode"))
    answer = decode.generate(text=PROMPTS[0], sampling_params=GREEDY)
    assert len(answer["output_ids"]) == GREEDY["max_new_tokens"]


def test_a_server_is_kept_until_its_specification_changes(fleet: Fleet) -> None:
    (decode,) = fleet.get(ServerSpec(name="decode-0", role="decode"))
    assert fleet.get(ServerSpec(name="decode-0", role="decode"))[0] is decode


def test_a_stopped_server_leaves_no_process(unified: Server) -> None:
    processes = unified.processes()
    assert len(processes) >= 3, "main process, scheduler, detokenizer"
    unified.stop()
    assert wait_for(lambda: not [process for process in processes if _lives(process)])


def _lives(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
