"""Settings of a machine: looked at, changed, and given to an engine that runs.

A change is kept only when everybody has agreed: the table, the host, and where it runs the engine.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from datetime import datetime
from typing import Any
from urllib.parse import urlencode

import msgspec

from proa.agent import at_login
from proa.drivers.base import Driver
from proa.images.store import ImageStore
from proa.machine import authorities
from proa.machine.guest_config import daemon_json
from proa.machine.host_checks import check_driver, check_sizes
from proa.machine.machine import Machine
from proa.machine.store import MachineStore
from proa.model import settings
from proa.model.api import ConfigChanged, SettingValue
from proa.model.errors import ProaError
from proa.model.machine import MachineConfig
from proa.model.settings import Effect, Setting, mask
from proa.model.sizes import show_size
from proa.ports.engine_api import EngineApi
from proa_guest import wire

log = logging.getLogger("proa.agent")

GUEST_TIMEOUT = (
    120.0  # seconds; dockerd alone needs 2 to start and check, under emulation and on a quiet host
)
RELOAD_TIMEOUT = 60.0
MOST_OUTPUT = 64 << 10
# The flags are those of the running engine, so that a key that contradicts them is seen.
_CHECK = """\
set -e
umask 077
trap 'rm -f /etc/docker/daemon.json.new' EXIT
cat > /etc/docker/daemon.json.new
dockerd --validate --containerd=/run/containerd/containerd.sock --host=unix:///run/docker.sock \
    --config-file=/etc/docker/daemon.json.new
"""
_APPLY = """\
set -e
umask 077
cat > /etc/docker/daemon.json.new
mv /etc/docker/daemon.json.new /etc/docker/daemon.json
kill -HUP $(busybox pidof dockerd)
"""


class Configurator:
    """One machine's settings; one change at a time, so that no two lose each other's."""

    def __init__(self, machine: Machine, store: MachineStore, images: ImageStore, driver: Driver) -> None:
        self._machine = machine
        self._store = store
        self._images = images
        self._driver = driver
        self._lock = asyncio.Lock()

    def values(self, *, reveal: bool = False) -> list[SettingValue]:
        """Every setting, and every key of daemon.json that is set. Raises ProaError `config-corrupt`."""
        config = self._store.load(self._machine.name)
        told = [self._value(setting, config) for setting in settings.SETTINGS]
        for key in sorted(config.daemon):
            told.append(self._value(settings.find(settings.DAEMON + key), config))
        if reveal:
            return told
        return [msgspec.structs.replace(value, value=settings.masked(value.value)) for value in told]

    def value(self, key: str) -> SettingValue:
        """One setting as it is. Raises ProaError `unknown-setting`, `config-corrupt`."""
        return self._value(settings.find(key), self._store.load(self._machine.name))

    def _value(self, setting: Setting, config: MachineConfig) -> SettingValue:
        value, given = _look(setting, config)
        return SettingValue(
            key=setting.key,
            value=value if given else setting.default,
            given=given,
            default=setting.default,
            type=setting.kind.name,
            effect=str(setting.effect),
            help=setting.help,
        )

    async def change(self, changes: Mapping[str, Any]) -> ConfigChanged:
        """Set keys (None: take away). Raises ProaError, and then nothing is changed."""
        checked = {key: _checked(key, value) for key, value in changes.items()}
        async with self._lock:
            name, store = self._machine.name, self._store
            before = store.load(name)
            text, after = store.set(name, checked)
            self._agree(before, after, frozenset(checked))
            old, new = daemon_json(before), daemon_json(after)
            session = self._machine.session
            if session is not None and old != new:
                await self._in_guest(_CHECK, new)
            if before.setting(at_login.KEY) != after.setting(at_login.KEY):
                await asyncio.to_thread(at_login.agree, store, after)
            store.keep_text(name, text)
            log.info("%s: settings changed: %s", name, ", ".join(sorted(checked)))
            if session is None:
                return ConfigChanged(effect="start")
            if before == after:
                return ConfigChanged(effect="none")
            changed = {key for key in old.keys() | new.keys() if old.get(key) != new.get(key)}
            if changed & settings.RELOADABLE:
                # The engine keeps what its file no longer names: a list is emptied by an empty one.
                emptied: dict[str, Any] = {
                    key: [] for key in changed - new.keys() if isinstance(old[key], list)
                }
                await self._reload({**new, **emptied})
                changed -= emptied.keys() & settings.RELOADABLE
            live = changed <= settings.RELOADABLE & new.keys()
            same = msgspec.structs.replace(after, daemon={}, values=_cold(after.values)) == (
                msgspec.structs.replace(before, daemon={}, values=_cold(before.values))
            )
            return ConfigChanged(effect="live" if same and live else "restart")

    def _agree(self, before: MachineConfig, after: MachineConfig, keys: frozenset[str]) -> None:
        """What the host says. Raises ProaError `disk-cannot-shrink`, `driver-unknown` …"""
        check_sizes(after)
        if after.disk < before.disk and self._machine.paths.data_disk.exists():
            raise ProaError(
                "disk-cannot-shrink",
                f"the disk of {after.name!r} cannot be made smaller",
                why=f"it may grow to {show_size(before.disk)} already, and cutting it off would lose data; "
                "it takes room on this computer only as it fills",
                hint="give room back by removing images: proa docker system prune",
                usage=True,
            )
        if after.driver != before.driver:
            check_driver(after.driver, self._driver)
        if after.image and after.image != before.image:
            self._images.get(after.image)
        if keys & {"certificates", "host_certificates"}:
            authorities.collect(after)

    async def _reload(self, daemon: dict[str, Any]) -> None:
        """Give the engine its new configuration, and wait until it says that it has taken it over."""
        engine = EngineApi(lambda: self._machine.open_stream("engine"))
        since = _moment(await engine.get_json("/info"))
        await self._in_guest(_APPLY, daemon)
        filters = '{"type":["daemon"],"event":["reload"]}'
        query = urlencode({"since": since, "filters": filters})
        try:
            async with asyncio.timeout(RELOAD_TIMEOUT):
                async for _ in engine.lines(f"/events?{query}"):
                    return
        except TimeoutError as error:
            raise ProaError(
                "engine-not-reloaded",
                "the engine did not take its new configuration over",
                why=f"it has said nothing of it within {RELOAD_TIMEOUT:.0f} s; the setting is kept",
                hint=f"proa restart {self._machine.name}",
                layer="engine",
            ) from error

    async def _in_guest(self, script: str, daemon: dict[str, Any]) -> None:
        """Run a script in the guest with daemon.json as its input: no list of processes shows it."""
        stream = await self._machine.open_stream("exec", {"argv": ["sh", "-c", script]})
        command = _Command(msgspec.json.encode(daemon))
        stream.attach(command)
        try:
            async with asyncio.timeout(GUEST_TIMEOUT):
                status = await command.ended
        except TimeoutError as error:
            raise ProaError("link-down", "the guest does not answer", layer="guest-agent") from error
        finally:
            command.abort()
        if status:
            lines = [line.strip() for line in command.text().splitlines() if line.strip()]
            why = next((line for line in lines if "unable to configure" in line), lines[-1] if lines else "")
            why = why.rpartition("daemon.json.new: ")[2] or f"exit status {status}"
            raise ProaError(
                "daemon-config-refused",
                "the engine refuses this configuration",
                why=mask(why),
                hint="nothing was changed; the keys are in the reference of dockerd",
                layer="engine",
                usage=True,
            )


class _Command(asyncio.Protocol):
    """A command in the guest: its input at once, its output kept, its status at the end."""

    def __init__(self, stdin: bytes) -> None:
        self.ended: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self._stdin = stdin
        self._frames = wire.Frames()
        self._output = bytearray()
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        for start in range(0, len(self._stdin), wire.MAX_FRAME):
            transport.write(wire.frame(wire.STDIN, self._stdin[start : start + wire.MAX_FRAME]))
        transport.write(wire.frame(wire.STDIN_EOF))

    def data_received(self, data: bytes) -> None:
        try:
            for kind, payload in self._frames.feed(data):
                if kind in (wire.STDOUT, wire.STDERR) and len(self._output) < MOST_OUTPUT:
                    self._output += payload
                elif kind == wire.EXIT and not self.ended.done():
                    self.ended.set_result(wire.exit_status(payload))
        except wire.WireError as error:
            self._fail(str(error))

    def connection_lost(self, error: Exception | None) -> None:
        self._fail("it ended the connection")

    def _fail(self, why: str) -> None:
        if not self.ended.done():
            self.ended.set_exception(
                ProaError("link-down", "the guest does not answer", why=why, layer="guest-agent")
            )
        self.abort()

    def abort(self) -> None:
        if self._transport is not None:
            self._transport.abort()

    def text(self) -> str:
        return self._output[:MOST_OUTPUT].decode("utf-8", "replace")


def _moment(info: object) -> str:
    """The engine's own time as its `events` takes it: what came before is of an earlier reload.

    Raises ProaError `engine-silent`.
    """
    try:
        told = info["SystemTime"] if isinstance(info, dict) else ""
        return f"{datetime.fromisoformat(told).timestamp():.6f}"
    except (KeyError, TypeError, ValueError) as error:
        raise ProaError(
            "engine-silent", "the engine does not answer", why="it does not tell its time", layer="engine"
        ) from error


def _checked(key: str, value: Any) -> Any:
    setting = settings.find(key)
    return None if value is None else setting.check(value)


def _cold(values: Mapping[str, Any]) -> dict[str, Any]:
    """What of `values` no engine takes over while it runs, proxies (of daemon.json) included."""
    return {key: value for key, value in values.items() if settings.BY_KEY[key].effect is not Effect.LIVE}


def _look(setting: Setting, config: MachineConfig) -> tuple[Any, bool]:
    """The value in a config, and whether it was set there."""
    if setting.key.startswith(settings.DAEMON):
        found: Any = config.daemon
        for part in setting.key.split(".")[1:]:
            if not isinstance(found, dict) or part not in found:
                return None, False
            found = found[part]
        return found, True
    if setting.kind is settings.SIZE:
        return show_size(getattr(config, setting.key)), True
    if setting.key in config.values:
        return config.values[setting.key], True
    fixed = getattr(config, setting.key, None)
    return fixed, fixed is not None
