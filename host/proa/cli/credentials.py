"""Answers the guest's Docker CLI when it asks for the user's logins, as the host's own CLI would find them.

Where they are: in the helper that `credHelpers` names for a registry, else in that of `credsStore`, else in
`auths` of config.json. Questions and answers are those of Docker's credential helpers
(docker/docker-credential-helpers, "Development"): `get`, `store`, `erase` and `list`.
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Mapping
from pathlib import Path

from proa.cli.docker import find_program
from proa.model.errors import ProaError
from proa.system.docker_settings import DockerSettings
from proa.system.processes import run

# What Docker's CLI takes for "there are none", by the word.
NOT_FOUND = "credentials not found in native keychain"
TOKEN = "<token>"  # the user name of an identity token
TIMEOUT = 300.0  # seconds; a helper may ask a person first


class Credentials:
    """The logins of one user, as the Docker folder and its helpers have them.

    They are changed only where the user asks for that (`may_change`): what comes from the guest is hostile.
    """

    def __init__(self, folder: Path, environ: Mapping[str, str], *, may_change: bool) -> None:
        self._settings = DockerSettings(folder)
        self._environ = environ
        self._may_change = may_change

    def answer(self, action: str, text: str) -> tuple[int, str]:
        """The exit status and output of a helper for that question."""
        try:
            settings = self._settings.read()
            if action == "list":
                return 0, json.dumps(self._all(settings))
            if action not in ("get", "store", "erase"):
                return 1, f"{action!r} is nothing that credentials can be asked for"
            if action != "get" and not self._may_change:
                return 1, "only docker login and docker logout change logins"
            server = str(_object(text).get("ServerURL", "")) if action == "store" else text.strip()
            helper = _helper(settings, server)
            return self._ask(helper, action, text) if helper else self._own(settings, action, server, text)
        except (ProaError, ValueError) as error:
            return 1, str(error)

    def _ask(self, helper: str, action: str, text: str) -> tuple[int, str]:
        name = f"docker-credential-{helper}"
        program = find_program(name, self._environ.get("PATH", ""))
        if program is None:
            return 1, f"{name} is not on the PATH"
        done = run([program, action], timeout=TIMEOUT, input=text.encode(), env=self._environ)
        return (0 if done.status == 0 else 1), done.stdout.decode("utf-8", "replace")

    def _all(self, settings: Mapping[str, object]) -> dict[str, str]:
        """Registries and user names."""
        store = str(settings.get("credsStore") or "")
        if store:
            status, told = self._ask(store, "list", "")
            found = {str(key): str(name) for key, name in _object(told).items()} if status == 0 else {}
        else:
            found = {}
            for key, entry in _table(settings.get("auths")).items():
                if login := _login(_table(entry)):
                    found[key] = login[0]
        return {**found, **{key: found.get(key, "") for key in _table(settings.get("credHelpers"))}}

    # -- in config.json -----------------------------------------------------------------------

    def _own(self, settings: Mapping[str, object], action: str, server: str, text: str) -> tuple[int, str]:
        logins = _table(settings.get("auths"))
        if action == "get":
            entry = logins.get(server)
            if entry is None:
                entry = next((logins[key] for key in logins if _host(key) == server), None)
            login = _login(_table(entry))
            if login is None:
                return 1, NOT_FOUND
            return 0, json.dumps({"ServerURL": server, "Username": login[0], "Secret": login[1]})
        if action == "store":
            content = _object(text)
            user, secret = str(content.get("Username", "")), str(content.get("Secret", ""))
            packed = base64.b64encode(f"{user}:{secret}".encode()).decode()
            logins[server] = {"identitytoken": secret} if user == TOKEN else {"auth": packed}
        elif logins.pop(server, None) is None:
            return 0, ""
        self._settings.write({**settings, "auths": logins})
        return 0, ""


def for_guest(settings: Mapping[str, object]) -> dict[str, object]:
    """What of config.json the guest's CLI is told: all but logins, and what means something here alone."""
    here = ("auths", "credsStore", "credHelpers", "currentContext", "cliPluginsExtraDirs")
    return {key: value for key, value in settings.items() if key not in here}


def _helper(settings: Mapping[str, object], server: str) -> str:
    """The helper that has a server's login; empty where it is in config.json itself."""
    return str(_table(settings.get("credHelpers")).get(server) or settings.get("credsStore") or "")


def _login(entry: Mapping[str, object]) -> tuple[str, str] | None:
    """User name and secret of an entry of `auths`; None where there are none in it."""
    if token := entry.get("identitytoken"):
        return TOKEN, str(token)
    try:
        user, _, secret = base64.b64decode(str(entry.get("auth", ""))).decode().partition(":")
    except (binascii.Error, UnicodeDecodeError):
        return None
    return (user, secret.rstrip("\0")) if user else None


def _host(key: str) -> str:
    """`https://registry.example/v1/` is asked for as `registry.example`, too."""
    return key.partition("://")[2].partition("/")[0] if "://" in key else key.partition("/")[0]


def _object(text: str) -> dict[str, object]:
    """Raises ValueError."""
    content = json.loads(text)
    if not isinstance(content, dict):
        raise ValueError("it is no JSON object")
    return content


def _table(value: object) -> dict[str, object]:
    return dict(value) if isinstance(value, dict) else {}
