"""A live vLLM server that is calibrated.

Prompts are random tokens, so that none is in the prefix cache. A server of a pair computes both
phases of a request that does not come from a router, and so it is measured in both.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import numpy as np

from voltana.serving.profile.asking import ask, checked_url
from voltana.serving.profile.design import Limits
from voltana.serving.profile.run import DECODE_STEPS, About, ProfileRunError
from voltana.serving.router.keys import Keys
from voltana.values import Phase
from voltana_vllm.dialect.keys import KEY_NAMES
from voltana_vllm.dialect.loads import LOADS_PATH

if TYPE_CHECKING:
    from voltana.serving.profile.design import Point

PREFILL_REPEATS = 3

USUAL_REQUESTS = 256
USUAL_PREFILL_TOKENS = 8192
"""A server does not tell its limits; where they are lower, batches are smaller, and counted so."""

_FIRST_TOKEN, _PAST_TOKENS = 10, 500
"""Token ids that every vocabulary has, and few of them special."""

_CAPACITY = re.compile(r"^vllm:cache_config_info\{([^}]*)\}", re.MULTILINE)


class VllmServer:
    """A live server; a `voltana.serving.profile.run.ProfiledServer`.

    Args:
        url: Where it listens.
        seed: Of the prompts.
        keys: Its key; None for none.
        decode_steps: Tokens that each request of a decode point produces.

    Raises:
        ConfigError: If that is no URL.
        ProfileRunError: If it does not answer, not to this key, or is no vLLM server.
    """

    phases = (Phase.PREFILL, Phase.DECODE)

    def __init__(
        self, url: str, seed: int = 0, keys: Keys | None = None, decode_steps: int = DECODE_STEPS
    ) -> None:
        self.url = checked_url(url)
        self._keys = keys or Keys(names=KEY_NAMES)
        self._rng = np.random.default_rng(seed)
        self.decode_steps = decode_steps
        self.about = self._about()

    def run(self, point: Point) -> None:
        """Send the requests of a point, and wait for their answers.

        Raises:
            ProfileRunError: If the server refuses them.
        """
        decodes = point.phase is Phase.DECODE
        for _ in range(1 if decodes else PREFILL_REPEATS):
            shape = (point.requests, point.prompt_tokens)
            prompts = self._rng.integers(_FIRST_TOKEN, _PAST_TOKENS, shape).tolist()
            tokens = self.decode_steps if decodes else 1
            body = {"prompt": prompts, "max_tokens": tokens, "temperature": 0.0}
            own = {"model": self.about.model, "ignore_eos": True, "detokenize": False}
            self._ask("/v1/completions", body | own)

    def _about(self) -> About:
        version, models = self._ask("/version"), self._ask("/v1/models")
        listed = models.get("data") if isinstance(models, dict) else None
        if not (isinstance(version, dict) and isinstance(listed, list) and listed):
            raise ProfileRunError(
                f"{self.url} answers as no vLLM server does: must be one. Give the address of "
                "the server itself, not that of a router."
            )
        tokens = _capacity(str(self._ask(LOADS_PATH)))
        context = int(listed[0].get("max_model_len") or tokens)
        if not tokens:
            raise ProfileRunError(
                f"{self.url}{LOADS_PATH} does not say how many tokens its KV cache holds: must be "
                "a vLLM server with statistics. Start it without --disable-log-stats."
            )
        return About(
            model=str(listed[0].get("id") or "unknown"),
            version=str(version.get("version") or "unknown"),
            role="unified",
            tensor_parallel=1,
            vocabulary=_PAST_TOKENS,
            limits=Limits(
                max_requests=USUAL_REQUESTS,
                max_tokens=int(0.9 * tokens),
                max_context=min(context, tokens) - self.decode_steps - 1,
                max_prefill_tokens=USUAL_PREFILL_TOKENS,
            ),
        )

    def _ask(self, path: str, *body: Any) -> Any:
        remedy = f". {self._keys.names.remedy()}"
        return ask(self.url + path, self._keys.usual(), *body, remedy=remedy)


def _capacity(metrics: str) -> int:
    """Tokens that the KV caches of a server hold; 0 where it does not say."""
    tokens = 0
    for labels in _CAPACITY.findall(metrics):
        found = dict(re.findall(r'(\w+)="(\d+)"', labels))
        tokens += int(found.get("num_gpu_blocks", 0)) * int(found.get("block_size", 0))
    return tokens
