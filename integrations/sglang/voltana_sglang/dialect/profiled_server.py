"""A live SGLang server that is calibrated.

Prompts are random tokens after a flush of the cache, so that none is reused. Decode servers and
prefill servers are measured alone: SGLang fakes the transfer for a certain bootstrap host.
"""

from __future__ import annotations

import http.client
import secrets
import time
from typing import TYPE_CHECKING, Any

import numpy as np

from voltana.serving.profile.asking import RefusedError, ask, checked_url
from voltana.serving.profile.design import Limits
from voltana.serving.profile.run import DECODE_STEPS, About, ProfileRunError
from voltana.serving.router.keys import Keys
from voltana.values import Phase
from voltana_sglang.dialect.call import ROOM_LIMIT
from voltana_sglang.dialect.keys import KEY_NAMES

if TYPE_CHECKING:
    from voltana.serving.profile.design import Point

FAKED_TRANSFER_HOST = "2.2.2.2"
"""Bootstrap host for which SGLang makes up the other half of a pair (its FAKE_BOOTSTRAP_HOST)."""

PREFILL_REPEATS = 3

_IDLE_LIMIT_S = 60.0
_POLL_S = 0.05
_FIRST_ORDINARY_TOKEN = 10
"""Smaller ids are often special."""


class SglangServer:
    """A live server, unified, prefill or decode; a `voltana.serving.profile.run.ProfiledServer`.

    Args:
        url: Where it listens.
        seed: Of the prompts.
        keys: Its keys; None for none.
        decode_steps: Tokens that each request of a decode point produces.

    Raises:
        ConfigError: If that is no URL.
        ProfileRunError: If it does not answer, not to these keys, or is no SGLang server.
    """

    def __init__(
        self,
        url: str,
        seed: int = 0,
        keys: Keys | None = None,
        decode_steps: int = DECODE_STEPS,
    ) -> None:
        self.url = checked_url(url)
        self._keys = keys or Keys(names=KEY_NAMES)
        self._rng = np.random.default_rng(seed)
        self.decode_steps = decode_steps
        self.about = self._ask()

    @property
    def phases(self) -> tuple[Phase, ...]:
        """What it computes."""
        if self.about.role == "prefill":
            return (Phase.PREFILL,)
        return (Phase.DECODE,) if self.about.role == "decode" else (Phase.PREFILL, Phase.DECODE)

    def run(self, point: Point) -> None:
        """Send the requests of a point, and wait for their answers.

        Raises:
            ProfileRunError: If the server refuses them.
        """
        if point.phase is Phase.DECODE:
            self._generate(point.requests, point.prompt_tokens, self.decode_steps)
            return
        for _ in range(PREFILL_REPEATS):
            self._generate(point.requests, point.prompt_tokens, 1)

    def _generate(self, requests: int, prompt_tokens: int, output_tokens: int) -> None:
        self._flush()
        shape = (requests, prompt_tokens)
        ids = self._rng.integers(_FIRST_ORDINARY_TOKEN, self.about.vocabulary, shape).tolist()
        sampling = {"temperature": 0.0, "max_new_tokens": output_tokens, "ignore_eos": True}
        body: dict[str, Any] = {"input_ids": ids, "sampling_params": sampling}
        if self.about.role != "unified":
            rooms = [secrets.randbelow(ROOM_LIMIT) for _ in range(requests)]
            body |= {"bootstrap_host": [FAKED_TRANSFER_HOST] * requests, "bootstrap_room": rooms}
            body["bootstrap_port"] = [None] * requests
        self._call("/generate", body)

    def _flush(self) -> None:
        """Empty the cache, which SGLang refuses until it has put the last request away."""
        ends_s = time.monotonic() + _IDLE_LIMIT_S
        while True:
            try:
                self._call("/flush_cache", None)
            except RefusedError as error:
                if error.status != http.client.BAD_REQUEST:
                    raise
                if time.monotonic() > ends_s:
                    raise ProfileRunError(
                        f"{self.url} does not become idle: must have nothing else to do while it "
                        "is profiled. Stop its other clients, and its router."
                    ) from None
                time.sleep(_POLL_S)
            else:
                return

    def _ask(self) -> About:
        said, model = self._call("/server_info"), self._call("/model_info")
        if not isinstance(said, dict) or not isinstance(model, dict):
            raise ProfileRunError(
                f"{self.url} answers as no SGLang server does: must be one. Give the address of "
                "the server itself, not that of a router."
            )
        state = (said.get("internal_states") or [{}])[0]
        tokens = int(said.get("max_total_num_tokens") or state.get("max_total_num_tokens") or 0)
        chunk = int(said.get("chunked_prefill_size") or 0)
        context = int(said.get("max_req_input_len") or said.get("context_length") or tokens)
        running = int(
            state.get("effective_max_running_requests_per_dp")
            or said.get("max_running_requests")
            or 1
        )
        if not tokens:
            raise ProfileRunError(
                f"{self.url} does not say how many tokens its KV cache holds: must be an SGLang "
                "server of 0.5.11 or later itself, no router. Correct the address."
            )
        return About(
            model=str(said.get("served_model_name") or model.get("model_path") or "unknown"),
            version=str(said.get("version", "unknown")),
            role={"null": "unified"}.get(str(said.get("disaggregation_mode")), "")
            or str(said.get("disaggregation_mode") or "unified"),
            tensor_parallel=int(said.get("tp_size") or 1),
            vocabulary=_vocabulary(said, model),
            limits=Limits(
                max_requests=running,
                max_tokens=int(0.9 * tokens),
                max_context=min(context, tokens),
                max_prefill_tokens=chunk if chunk > 0 else context,
            ),
        )

    def _call(self, path: str, *body: Any) -> Any:
        admin = path == "/flush_cache"
        headers = self._keys.for_admin() if admin else self._keys.usual()
        remedy = f". {self._keys.names.remedy(admin=admin)}"
        return ask(self.url + path, headers, *body, remedy=remedy)


def _vocabulary(said: dict[str, Any], model: dict[str, Any]) -> int:
    return int(said.get("vocab_size") or model.get("vocab_size") or 500)
