"""The GPUs as the worker sees them: links to their processes, what was asked, what came of it."""

from __future__ import annotations

import contextlib
import json
import math
from dataclasses import replace
from typing import TYPE_CHECKING

from voltana_actuatord.daemon.gpulink import (
    EXAMINE,
    Examined,
    decode_answer,
    encode_wish,
)
from voltana_actuatord.daemon.lent_gpu import (
    GPU_WORDS,
    OPEN,
    OPENING,
    READY,
    RESTORING,
    LentGpu,
    Settling,
    word_of,
)
from voltana_actuatord.daemon.page import ClockState
from voltana_actuatord.faults import LeaseRefusedError
from voltana_actuatord.protocol import Ack
from voltana_actuatord.wishes import Result, Wish, is_foreign

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from typing import Any

    from voltana_actuatord.daemon.linkends import WorkerEnd
    from voltana_actuatord.daemon.parentlink import News, ParentLink

COOL_DOWN_S = 1.0
"""How long a GPU is left alone after a failure, so that a broken one is not hammered."""

REFUSED_FOR_S = 0.5
"""How long the reason for which a GPU could not be opened is given again, before it is tried."""

MAX_GPUS = 256


class OpenGpus:
    """Opens GPUs when they are first asked for and hands wishes to their processes.

    Args:
        parent: Who starts those processes.
        watch: Called with the UUID and the link of every GPU that is opened.
        unwatch: Called with a link that is about to be closed.
        restoring: UUIDs of GPUs that must not be touched yet.
    """

    def __init__(
        self,
        parent: ParentLink,
        watch: Callable[[str, WorkerEnd], None],
        unwatch: Callable[[WorkerEnd], None],
        restoring: Iterable[str] = (),
    ) -> None:
        self._parent = parent
        self._watch = watch
        self._unwatch = unwatch
        self._gpus = {uuid: LentGpu(uuid, word=RESTORING) for uuid in restoring}
        self._tickets = 0
        self._settling: dict[int, Settling] = {}
        self._behind: set[str] = set()

    def examine(self, devices: Sequence[str]) -> None:
        """Ask for an `Examined` of each device."""
        for uuid in devices:
            self._send(self._gpu(uuid), EXAMINE)

    def refuse_unready(self, devices: Iterable[str], now_s: float) -> None:
        """Check that devices are at their defaults and need no rest.

        Raises:
            LeaseRefusedError: If one is not ready.
        """
        for uuid in devices:
            gpu = self._gpu(uuid)
            why, until_s = gpu.refused
            if now_s < until_s:  # it could not be opened a moment ago
                raise LeaseRefusedError(why)
            if not gpu.at_default:
                raise LeaseRefusedError(
                    f"{uuid} is being restored to its default clocks. Try again.",
                    transient=True,
                )
            if gpu.rests_until_s > now_s:
                raise LeaseRefusedError(
                    f"{uuid} is left at its default clocks for a moment after a failure or an "
                    "operator's restore. Try again."
                )

    def common_clocks(self, devices: Sequence[str]) -> tuple[float, ...]:
        """Clocks that examined devices share.

        Raises:
            LeaseRefusedError: If there is none.
        """
        common = set(self._gpus[devices[0]].clocks_mhz)
        for uuid in devices[1:]:
            common &= set(self._gpus[uuid].clocks_mhz)
        if not common:
            raise LeaseRefusedError(
                f"{', '.join(devices)} share no clock. Put unlike GPUs in domains of their own."
            )
        return tuple(sorted(common))

    def lend(self, devices: Iterable[str]) -> None:
        """What comes of earlier wishes is not put down to the lease that begins now."""
        for uuid in devices:
            self._gpu(uuid).since = self._tickets + 1

    def rest(self, devices: Iterable[str], until_s: float) -> None:
        """Leave devices alone until a time."""
        for uuid in devices:
            gpu = self._gpu(uuid)
            gpu.rests_until_s = max(until_s, gpu.rests_until_s)

    def set_clock(self, key: int, sequence: int, devices: Sequence[str], clock_mhz: float) -> None:
        """Ask for a clock on all devices of a domain."""
        self._tickets += 1
        wish = Wish(clock_mhz, self._tickets)
        data = encode_wish(wish)
        for uuid in devices:  # first of all: the rest can wait
            gpu = self._gpus[uuid]
            self._send(gpu, data)
            gpu.wish = wish
        self._settling[key] = Settling(self._tickets, sequence, clock_mhz, set(devices))

    def restore(self, devices: Iterable[str], *, forced: bool = False) -> None:
        """Ask for the default clocks; forced also where nothing of ours is set."""
        for uuid in devices:
            gpu = self._gpus.get(uuid)
            if gpu is not None and (gpu.link is not None or gpu.unsent):
                self._tickets += 1
                self._ask(gpu, Wish(None, self._tickets, forced))

    def forget(self, key: int) -> None:
        """Expect no acknowledgement for a connection any more."""
        self._settling.pop(key, None)

    def settled(self, key: int, result: Result) -> Ack | None:
        """Take a device's report; the acknowledgement once all devices of the domain are there."""
        change = self._settling.get(key)
        if change is None or result.wish.ticket != change.ticket:
            return None
        change.waiting.discard(result.device)
        change.clock_mhz = min(change.clock_mhz, result.clock_mhz)
        if result.note and result.note not in change.notes:
            change.notes = f"{change.notes}; {result.note}".lstrip("; ")
        if change.waiting:
            return None
        return Ack(change.sequence, change.target_mhz, change.clock_mhz, True, change.notes)

    def renewed(self, key: int, sequence: int) -> Ack | None:
        """The acknowledgement of a step that keeps the clock; None while it is settling."""
        change = self._settling.get(key)
        if change is None:
            return None
        change.sequence = sequence
        if change.waiting:
            return None
        return Ack(sequence, change.target_mhz, change.clock_mhz, True, change.notes)

    def catch_up(self) -> None:
        """Send what a process was not ready to read."""
        behind, self._behind = self._behind, set()
        for uuid in behind:
            gpu = self._gpu(uuid)
            if gpu.link is None and gpu.unsent and gpu.word == READY:  # the parent did not hear
                self._open(gpu)
            for data in list(gpu.unsent.values()) if gpu.link is not None else ():
                self._send(gpu, data)

    # --- what others say

    def hear(self, news: News, now_s: float) -> bool:
        """Take what the parent says of a GPU; whether a GPU that was in use is gone."""
        gpu = self._gpu(news.uuid)
        lost = self.lose(news.uuid)
        if news.link is not None:
            gpu.word, gpu.link, gpu.state = OPEN, news.link, ClockState.DEFAULT
            self._watch(news.uuid, news.link)
            for data in list(gpu.unsent.values()):
                self._send(gpu, data)
            return lost
        if news.word == OPEN:
            news = replace(news, word="the daemon has no descriptor left for this GPU. Try again.")
        if news.word in {READY, RESTORING}:
            gpu.word = news.word
        else:
            gpu.word, gpu.refused = READY, (news.word, now_s + REFUSED_FOR_S)
            lost = True
        if gpu.word == RESTORING and gpu.unsent:
            lost = True
        if gpu.word == READY and gpu.unsent and not lost:
            self._open(gpu)
        if lost:
            gpu.forget_wish()
        return lost

    def answers(self, uuid: str, now_s: float) -> list[Result | Examined]:
        """What a GPU's process has said since; an empty list if it is gone."""
        gpu, said = self._gpu(uuid), list[Result | Examined]()
        while gpu.link is not None:
            try:
                data = gpu.link.hear()
            except (BlockingIOError, InterruptedError):
                break
            except OSError:
                data = b""
            if not data:
                break
            with contextlib.suppress(ValueError):
                said.append(self._taken(gpu, decode_answer(uuid, data), now_s))
        return said

    def lose(self, uuid: str) -> bool:
        """Let go of the link to a GPU's process that has ended; whether there was one."""
        gpu = self._gpu(uuid)
        if gpu.link is None:
            return False
        self._unwatch(gpu.link)
        gpu.link.close()
        gpu.link, gpu.word = None, RESTORING
        gpu.forget_wish()
        return True

    def _taken(self, gpu: LentGpu, answer: Result | Examined, now_s: float) -> Result | Examined:
        gpu.state = answer.state
        if isinstance(answer, Examined):
            gpu.notes = answer.notes
            gpu.foreign = is_foreign(answer.notes)
            gpu.clocks_mhz = answer.clocks_mhz or gpu.clocks_mhz
            if not answer.clocks_mhz:  # it could not be opened, and its process ends
                gpu.refused = (answer.refusal, now_s + REFUSED_FOR_S)
        else:
            if answer.wish.clock_mhz is not None:  # giving a clock back says nothing of others'
                gpu.foreign = is_foreign(answer.note)
            gpu.clock_mhz = answer.clock_mhz if answer.wish.clock_mhz is not None else math.nan
            gpu.answered = (
                max(gpu.answered, answer.wish.ticket) if not answer.failed else (gpu.answered)
            )
            if answer.note or answer.state is ClockState.DEFAULT:
                gpu.notes = answer.note
        return answer

    # --- what is known

    def is_of_lease(self, result: Result) -> bool:
        """Whether a result belongs to the present lease of its GPU."""
        return result.wish.ticket >= self._gpu(result.device).since

    def all_default(self) -> bool:
        """Whether every GPU that was opened is at its default clocks."""
        return all(gpu.at_default for gpu in self._gpus.values())

    def unknown(self, devices: Iterable[str]) -> int:
        """How many of the devices were never opened."""
        known = self.opened()
        return sum(1 for uuid in devices if uuid not in known)

    def opened(self) -> list[str]:
        """UUIDs of the GPUs that were opened."""
        return sorted(uuid for uuid, gpu in self._gpus.items() if gpu.clocks_mhz)

    def states(self) -> dict[str, int]:
        """How many GPUs are in which state, however many there are; foreign clocks beside that."""
        gpus = [gpu for gpu in self._gpus.values() if gpu.clocks_mhz or gpu.word == RESTORING]
        words = [word_of(gpu) for gpu in gpus]
        counted = {word: words.count(word) for word in GPU_WORDS}
        return counted | {"foreign": sum(gpu.foreign for gpu in gpus)}

    def listed(self, room: int) -> list[dict[str, Any]]:
        """What a status message says of the GPUs: shorter notes, or fewer, where room is little.

        Args:
            room: Bytes that there are.
        """
        for longest in (200, 40, 0):
            found = self._listed(longest)
            taken = len(json.dumps(found))
            if taken <= room:
                break
        return found[: max(1, len(found) * room // max(room, taken))]

    def _listed(self, longest: int) -> list[dict[str, Any]]:
        return [
            {
                "uuid": uuid,
                "at_default": gpu.at_default and gpu.state is not ClockState.DOUBTFUL,
                "state": word_of(gpu),
                "note": gpu.notes[:longest],
                **({"foreign": True} if gpu.foreign else {}),
                **({"clock_mhz": gpu.clock_mhz} if math.isfinite(gpu.clock_mhz) else {}),
            }
            for uuid, gpu in sorted(self._gpus.items())
            if gpu.clocks_mhz or gpu.word == RESTORING
        ]

    def stop(self) -> None:
        """Let go of every process: each gives its clock back and ends."""
        for uuid in list(self._gpus):
            self.lose(uuid)

    # --- asking

    def _gpu(self, uuid: str) -> LentGpu:
        found = self._gpus.get(uuid)
        if found is None:
            if len(self._gpus) >= MAX_GPUS:
                self._forget_unknown()
            found = self._gpus[uuid] = LentGpu(uuid)
        return found

    def _forget_unknown(self) -> None:
        """Names that led to no GPU must not fill the memory."""
        for uuid, gpu in list(self._gpus.items()):
            if gpu.link is None and not gpu.clocks_mhz and gpu.word == READY:
                del self._gpus[uuid]

    def _ask(self, gpu: LentGpu, wish: Wish) -> None:
        gpu.wish = wish
        self._send(gpu, encode_wish(wish))

    def _send(self, gpu: LentGpu, data: bytes) -> None:
        if gpu.link is None:
            gpu.unsent[data[:1]] = data  # the latest wish, and that it be examined
            if gpu.word == READY:
                self._open(gpu)
            return
        try:
            gpu.link.ask(data)
        except BlockingIOError:  # its process is behind: it gets the latest when it reads
            gpu.unsent[data[:1]] = data
            self._behind.add(gpu.uuid)
        except OSError:  # it has ended, which the link says as well
            return
        else:
            if gpu.unsent:
                gpu.unsent.pop(data[:1], None)

    def _open(self, gpu: LentGpu) -> None:
        if self._parent.tell(f"open {gpu.uuid}"):
            gpu.word = OPENING
        else:
            self._behind.add(gpu.uuid)
