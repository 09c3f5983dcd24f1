"""What a conversation (proa.engine.conversation) wants done, in order."""

from __future__ import annotations

from dataclasses import dataclass

from proa.engine.mounts import HostMount


@dataclass(frozen=True)
class OpenEngine:
    """Open a stream to the engine; answer with engine_opened or engine_failed."""


@dataclass(frozen=True)
class ToEngine:
    data: bytes


@dataclass(frozen=True)
class EngineEof:
    """Half-close towards the engine."""


@dataclass(frozen=True)
class ToClient:
    data: bytes


@dataclass(frozen=True)
class CloseEngine:
    """End the engine's stream: what it does for this client is cancelled."""


@dataclass(frozen=True)
class CloseClient:
    """End the connection, after what was sent has left."""


@dataclass(frozen=True)
class Settle:
    """Wait until published ports are bound, then answer with settled()."""


@dataclass(frozen=True)
class Splice:
    """From here on both sides are raw: join them; `to_client` and `to_engine` go first."""

    to_engine: bytes
    to_client: bytes


@dataclass(frozen=True)
class Share:
    """Have these host paths ready for the guest, then answer with shared() or not_shared()."""

    wanted: tuple[HostMount, ...]


Command = OpenEngine | ToEngine | EngineEof | ToClient | CloseEngine | CloseClient | Settle | Splice | Share
