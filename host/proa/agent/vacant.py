"""Engine sockets that were handed over for machines that are not there: they answer, and say so."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Container
from typing import NoReturn

from proa.engine.proxy import EngineProxy
from proa.model.errors import ProaError
from proa.model.names import check_name
from proa.system.activation import Listeners
from proa.system.paths import Places


class Vacancies:
    """Nobody else would accept what waits in such a socket: its clients would hang."""

    def __init__(self, places: Places, listeners: Listeners) -> None:
        self._places = places
        self._listeners = listeners
        self._proxies: dict[str, EngineProxy] = {}

    async def open(self, machines: Container[str]) -> None:
        """Answer for every handed engine socket whose machine is not one of `machines`."""
        for path in self._listeners.paths:
            name = path.parent.name
            if name in machines or not self._is_engine_socket(name, path):
                continue
            proxy = EngineProxy(_nobody(name), settled=_nothing, machine=name)
            await proxy.serve(self._listeners.at(path))
            self._proxies[name] = proxy

    def _is_engine_socket(self, name: str, path: object) -> bool:
        try:
            return path == self._places.machine(check_name(name)).engine_socket
        except ProaError:
            return False

    async def fill(self, name: str) -> None:
        """The machine is there now, and answers itself."""
        proxy = self._proxies.pop(name, None)
        if proxy is not None:
            await proxy.close()

    async def close(self) -> None:
        for name in list(self._proxies):
            await self.fill(name)


def _nobody(name: str) -> Callable[[], Awaitable[NoReturn]]:
    async def refuse() -> NoReturn:
        raise ProaError(
            "machine-unknown", f"there is no machine {name!r}", hint=f"make and start it: proa start {name}"
        )

    return refuse


async def _nothing() -> None:
    return
