"""What a memory image depends on, and what it does not."""

from __future__ import annotations

from dataclasses import dataclass, field

import msgspec
import pytest

from proa.machine.sleep.fingerprint import CERTIFICATES, fingerprint
from proa.model.machine import MachineConfig

CONFIG = MachineConfig(name="m", daemon={"debug": True})


@dataclass
class FakeDriver:
    told: dict[str, str] = field(default_factory=lambda: {"hypervisor": "H 1"})

    def fingerprint(self, spec: object) -> dict[str, str]:
        return self.told


def mark(
    config: MachineConfig = CONFIG,
    image: str = "i",
    driver: FakeDriver | None = None,
    certificates: str = "",
) -> dict[str, str]:
    return fingerprint(config, image, None, driver or FakeDriver(), certificates)  # type: ignore[arg-type]


def test_the_same_machine_is_the_same_at_another_time() -> None:
    assert mark() == mark()
    assert mark()["hypervisor"] == "H 1"


@pytest.mark.parametrize(
    ("change", "what"), [({"daemon": {"debug": False}}, "settings"), ({"disk": 1 << 33}, "disk")]
)
def test_a_changed_config_is_named(change: dict[str, object], what: str) -> None:
    changed = mark(msgspec.structs.replace(CONFIG, **change))
    assert [key for key, value in mark().items() if changed[key] != value] == [what]


def test_what_does_not_concern_the_guest_changes_nothing() -> None:
    assert mark(msgspec.structs.replace(CONFIG, values={"idle.after": "off"})) == mark()


def test_other_authorities_are_another_machine() -> None:
    changed = mark(certificates="-----BEGIN")
    assert [key for key, value in mark().items() if changed[key] != value] == [CERTIFICATES]


def test_another_guest_image_or_hypervisor_is_another_machine() -> None:
    assert mark(image="j")["guest image"] != mark()["guest image"]
    assert mark(driver=FakeDriver({"hypervisor": "H 2"})) != mark()
