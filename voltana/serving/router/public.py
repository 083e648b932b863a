"""What stands between clients and the servers, the same before a router and a proxy that steers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from voltana.serving.router.doors import Doors
from voltana.serving.router.gate import Gate
from voltana.serving.router.intake import Intake
from voltana.serving.router.reading import Reader

if TYPE_CHECKING:
    from voltana.serving.engine import Engine
    from voltana.serving.router.settings import RouterTable


@dataclass(frozen=True, slots=True, kw_only=True)
class Public:
    """What stands between clients and the servers.

    Attributes:
        gate: Lets requests in.
        doors: The connections of clients.
        intake: Takes bodies in.
        reader: Understands them.
    """

    gate: Gate
    doors: Doors
    intake: Intake
    reader: Reader

    @classmethod
    def before(cls, engine: Engine[Any], settings: RouterTable) -> Public:
        """All of it; to be made where an event loop runs, and closed.

        Args:
            engine: Understands requests.
            settings: Limits.
        """
        return cls(
            gate=Gate(settings),
            doors=Doors(settings.limits),
            intake=Intake(settings),
            reader=Reader(engine, settings.limits),
        )

    async def close(self) -> None:
        """Close it, when no connection is open any more."""
        self.doors.close()
        await self.reader.close()
        self.intake.close()
        self.gate.close()
