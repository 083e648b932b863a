"""The servers behind the router, and whether each may be sent requests."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from yarl import URL

from voltana.errors import unknown_name
from voltana.values import Role

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from voltana.serving.router.settings import BackendTable, RouterTable

_MOST_DOUBLINGS = 64
"""Checks of a server that is down for days are more than a float has powers of two."""

ROLES = {"prefill": Role.PREFILL, "decode": Role.DECODE, "unified": Role.COLOCATED}


class Backend:
    """One server.

    A server gets requests once a health check has passed. Failures in a row eject it, and a passed
    check brings it back; the checks of an ejected server come at doubling intervals.

    Args:
        table: Its settings.
        router: Those of the router.

    Attributes:
        draining: Gets no new requests, while the open ones are completed.
        healthy: Whether its last check, and what came since, went well.
        why: What went wrong last.
        spared: Whether requests that fail may not eject it, since too few others are left.
    """

    def __init__(self, table: BackendTable, router: RouterTable) -> None:
        self.name = table.name
        self.role = ROLES[table.role]
        self.url = table.url
        self.feed = table.feed
        self.draining = False
        self.healthy = False
        self.why = "not checked yet"
        self.ejections = 0
        self._failures = 0
        self._met = False
        self._eject_after = router.eject_after
        self._eject_s = router.eject_s
        self._eject_max_s = router.eject_max_s
        self._endpoints: dict[str, URL] = {}
        self._watchers: dict[object, Callable[[], None]] = {}
        self.on_eject: Callable[[], None] | None = None
        self.spared: Callable[[], bool] = bool

    def endpoint(self, path: str) -> URL:
        """The address of a path of it; parsed once."""
        url = self._endpoints.get(path)
        if url is None:
            url = self._endpoints[path] = URL(self.url + path, encoded=True)
        return url

    @property
    def available(self) -> bool:
        """Whether new requests may be sent to it."""
        return self.healthy and not self.draining

    @property
    def back_off_s(self) -> float:
        """Time until a server that gets no requests is checked again."""
        if not self._met:  # it is starting, which takes as long as loading its weights
            return self._eject_s
        doublings = min(max(0, self.ejections - 1), _MOST_DOUBLINGS)
        return float(min(self._eject_s * 2**doublings, self._eject_max_s))

    def succeeded(self) -> None:
        """A request went well; that alone does not bring an ejected server back."""
        self._failures = 0

    def failed(self, why: str, *, dead: bool = False) -> None:
        """A request failed for a reason that lies with the server.

        Args:
            why: What happened.
            dead: Nobody listens there, so one failure is enough.
        """
        self.why = why
        self._failures += 1
        if self.healthy and (dead or (self._failures >= self._eject_after and not self.spared())):
            self._eject()

    def passed_check(self) -> None:
        """It may be sent requests (again)."""
        self._failures = 0
        self._met = True
        if not self.healthy:
            self.healthy, self.why = True, ""
        else:
            # Healthy for a whole period since it came back: the next ejection is a first one.
            self.ejections = 0

    def failed_check(self, why: str, *, dead: bool = False) -> None:
        """A check failed; `dead` as for `failed`."""
        if self.healthy:
            self.why = why
            self._failures += 1
            if dead or self._failures >= self._eject_after:
                self._eject()
        else:
            self.why = why
            self.ejections += 1

    def _eject(self) -> None:
        self.healthy = False
        self.ejections += 1
        if self.on_eject is not None:
            self.on_eject()
        for lost in tuple(self._watchers.values()):
            lost()

    def watch(self, owner: object, lost: Callable[[], None]) -> None:
        """Call `lost` when the server is ejected, until `unwatch`."""
        self._watchers[owner] = lost

    def unwatch(self, owner: object) -> None:
        """Undo `watch`; may be called twice."""
        self._watchers.pop(owner, None)


class Pool:
    """All servers.

    Args:
        settings: Those of the router.
    """

    def __init__(self, settings: RouterTable) -> None:
        self.backends = tuple(Backend(table, settings) for table in settings.backends)
        self._by_name = {backend.name: backend for backend in self.backends}
        self._by_role = {
            role: tuple(b for b in self.backends if b.role is role) for role in ROLES.values()
        }
        self._serving_share = settings.limits.serving_share
        for backend in self.backends:
            backend.spared = partial(self._is_needed, backend.role)

    def __iter__(self) -> Iterator[Backend]:
        return iter(self.backends)

    def of(self, role: Role) -> tuple[Backend, ...]:
        """All servers of a role."""
        return self._by_role[role]

    @property
    def unified(self) -> bool:
        """Whether its servers serve both phases."""
        return bool(self._by_role[Role.COLOCATED])

    @property
    def serving(self) -> bool:
        """Whether a request could be served now."""
        needed = (Role.COLOCATED,) if self.unified else (Role.PREFILL, Role.DECODE)
        return all(any(b.available for b in self._by_role[role]) for role in needed)

    def _is_needed(self, role: Role) -> bool:
        """Whether one server less of a role would be too few (the panic threshold)."""
        servers = self._by_role[role]
        others = sum(backend.healthy for backend in servers) - 1
        return others < self._serving_share * len(servers)

    def named(self, name: str) -> Backend:
        """The server of a name.

        Raises:
            UnknownNameError: If there is none.
        """
        if name not in self._by_name:
            raise unknown_name("backend", name, list(self._by_name))
        return self._by_name[name]
