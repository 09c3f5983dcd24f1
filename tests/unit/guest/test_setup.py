from __future__ import annotations

import json
from pathlib import Path

import pytest

from proa.machine import guest_config
from proa.model.machine import MachineConfig
from proa_guest import setup


def test_what_the_host_writes_the_guest_reads() -> None:
    secret = guest_config.new_secret()
    text = guest_config.render(MachineConfig(name="work", daemon={"debug": True}), secret).decode()
    config = setup.read_config(text)
    assert config["link"]["secret"] == secret.hex()  # type: ignore[index]
    assert config["daemon"] == {"debug": True}


@pytest.mark.parametrize(
    "text",
    ["", "[]", "{", '{"version": 2}', json.dumps({"version": 1, "link": 3, "network": {}, "daemon": {}})],
)
def test_another_config_is_refused(text: str) -> None:
    with pytest.raises(setup.SetupFailed):
        setup.read_config(text)


def test_certificates_are_added_to_what_is_trusted(tmp_path: Path) -> None:
    bundle = tmp_path / "bundle.crt"
    bundle.write_text("old")
    setup.trust("", str(bundle))
    setup.trust("new\n", str(bundle))
    assert bundle.read_text() == "old\nnew\n"
    with pytest.raises(setup.SetupFailed):
        setup.read_config(
            json.dumps({"version": 1, "link": {}, "network": {}, "daemon": {}, "certificates": 3})
        )
