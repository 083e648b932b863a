"""The port through which the router knows an inference engine, and its value types.

An adapter of an engine implements `Engine`; nothing else of the router changes. The order of a
request's legs is the engine's own affair. One whose legs run at once asks for the decode server
first (``attempt.decode()``), sends the prefill leg aside (``attempt.beside(...)``) and relays the
decode leg. One whose legs run one after the other awaits the prefill leg, says so
(``attempt.prefilled()``), waits for its turn (``await attempt.admitted()``), and asks for the
decode server only then, when it is chosen by what the servers do at that moment; it is a
`BindsLate`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, TypeVar, runtime_checkable

if TYPE_CHECKING:
    from voltana.serving.router.answer import Answer
    from voltana.serving.router.attempt import Attempt
    from voltana.serving.router.wire import Line
    from voltana.values import InstanceState


@dataclass(frozen=True, slots=True, kw_only=True)
class PromptSize:
    """How long a prompt is, as far as it can be told before it is tokenised.

    Attributes:
        tokens: Where they are given as such (token ids, embeddings); -1 if there is only text.
        text_bytes: UTF-8 bytes of all text that becomes tokens.
        pictures: How many pictures there are.
        whole: Whether that is all of it; sound, video and files are not counted.
    """

    tokens: int = -1
    text_bytes: int = 0
    pictures: int = 0
    whole: bool = True


@dataclass(slots=True, kw_only=True, eq=False)
class Call:
    """A client's request, as far as the router must understand it; engines add what they need.

    Attributes:
        path: Where it was sent.
        raw: Its body.
        stream: Whether the answer is a stream of events.
        batch: Prompts, if it is a batch; None if it is a single request.
        rid: Request id, the client's own if it gave one.
        rids: The client's own ids of a batch; empty otherwise.
        size: Length of all its prompts.
        tenant: Who it is counted for, as the client says (`RouterTable.tenant_key`); empty where it
            does not.
    """

    path: str
    raw: bytes | bytearray
    stream: bool
    batch: int | None
    rid: str
    rids: tuple[str, ...] = ()
    size: PromptSize
    tenant: str = ""

    @property
    def prompt_tokens(self) -> int:
        """Length of all prompts where it is known exactly, else -1."""
        return self.size.tokens

    @property
    def prompt_bytes(self) -> int:
        """Bytes of text in all prompts."""
        return self.size.text_bytes

    def is_known_as(self, rid: str) -> bool:
        """Whether a client means this request by an id."""
        return rid == self.rid or rid in self.rids


C = TypeVar("C", bound=Call)


class Engine(Protocol[C]):
    """An engine's dialect of HTTP. Stateless towards requests: one object serves all of them."""

    def understand(self, path: str, raw: bytes | bytearray) -> C:
        """Read a request; a long one in a process of its own, so that engine and call are pickled.

        The call must not keep the parsed body, which takes many times the memory of the text.

        Raises:
            Problem: If it is none that the engine could answer.
        """
        ...

    async def attempt(self, call: C, attempt: Attempt, answer: Answer) -> None:
        """Have a request answered by the servers of one try, and pass the answer on.

        Args:
            call: The request.
            attempt: The servers, the way to them, and what to report while they are at work.
            answer: What the client gets; untouched until there is a first token, so that a failure
                before it can be repeated elsewhere.

        Raises:
            Problem: If there is no answer, or only a part of one.
        """
        ...

    async def load(self, line: Line) -> InstanceState:
        """What a server says of its load.

        Raises:
            Problem: If it does not say; one of status 401 or 403 if it refuses the key.
            ValueError: If it says it in an unknown form.
        """
        ...

    async def abort(self, line: Line, call: C, number: int) -> int:
        """Tell a server that nobody waits for a try of a request any more.

        Args:
            line: The way to the server.
            call: The request.
            number: Of the try, from 0.

        Returns:
            The HTTP status of the answer; 0 where the server cannot be told.
        """
        ...


@runtime_checkable
class BindsLate(Protocol):
    """What an engine is beside that if it asks for the decode server only after the prefill.

    Requests of it that a router defers are held before their decode, not before their prefill.
    """

    @property
    def binds_late(self) -> bool:
        """Whether it does; may be a plain class attribute."""
        ...


@runtime_checkable
class HoldsCaches(Protocol):
    """What an engine is beside that if its prefill servers keep KV caches until they are fetched.

    What they keep is counted when prefill servers are chosen.
    """

    @property
    def lease_s(self) -> float:
        """Seconds after which a server gives up a KV cache that nobody fetches."""
        ...


def lease_of(engine: Engine[Any]) -> float | None:
    """How long an engine's prefill servers keep what nobody fetches; None where they keep none."""
    return engine.lease_s if isinstance(engine, HoldsCaches) else None


def binds_late(engine: Engine[Any]) -> bool:
    """Whether an engine says that it asks for the decode server after the prefill."""
    return isinstance(engine, BindsLate) and engine.binds_late
