"""What a prefill and a decode server cannot answer together as one server does."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from voltana.serving.router.problem import Problem

if TYPE_CHECKING:
    from collections.abc import Mapping

    from voltana_vllm.dialect.call import VllmCall

_NO = frozenset({"none", "false", "0", "0.0", "no", "n", "off", "f", ""})
"""What servers read as no, who take words and numbers for it, too."""


def lacking(fields: Mapping[str, Any], *, chat: bool) -> str:
    """Which of a request's fields asks for what only a server that does both phases has.

    Beams are requests of their own inside a server, of which it hands over no KV cache. A decode
    server computes nothing of a prompt but its last token, and answers with whatever was in memory
    where it is asked for the probabilities of the others.

    Args:
        fields: The request's.
        chat: Whether it is a chat.

    Returns:
        The field, with its value; empty if there is none.
    """
    if _may_mean_yes(fields.get("use_beam_search")):
        return "use_beam_search = true"
    if fields.get("prompt_logprobs") is not None:
        return f"prompt_logprobs = {fields['prompt_logprobs']!r:.20}"
    name, usual = ("top_logprobs", 0) if chat else ("logprobs", None)
    if _may_mean_yes(fields.get("echo")) and (value := fields.get(name, usual)) is not None:
        return f"echo with {name} = {value!r:.20}"
    return ""


def check_pair(call: VllmCall) -> None:
    """Refuse what a pair cannot answer.

    Raises:
        Problem: If one KV cache, which is handed over for one answer, is not enough for it.
    """
    if (call.batch or 1) > 1:
        raise Problem(
            400,
            f"{call.batch} prompts in one request are not allowed here: must be one, for vLLM's "
            "prefill servers hand over one KV cache a request. Send the prompts one by one.",
            "unsupported_batch",
        )
    if call.samples > 1:
        raise Problem(
            400,
            f"n or best_of = {call.samples} is not allowed here: must be 1, for a KV cache is "
            "fetched once. Send the prompt several times.",
            "unsupported_n",
        )
    if call.unpaired:
        raise Problem(
            400,
            f"{call.unpaired} is not allowed here: must be left out, for of vLLM's servers only "
            "one that does both phases answers it rightly. Ask such a server for it.",
            "unsupported_by_pairs",
        )


def _may_mean_yes(value: Any) -> bool:
    """Whether it may be read as yes; a list, which may have millions of parts, is refused."""
    return isinstance(value, str | int | float) and str(value).strip().lower() not in _NO
