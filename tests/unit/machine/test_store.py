from __future__ import annotations

import stat
from pathlib import Path

import pytest

from proa.machine.store import MachineRecord, MachineStore
from proa.model.errors import ProaError
from proa.model.machine import MachineConfig, MachineOptions
from proa.model.sizes import GIB
from proa.system.paths import OURS, Places


@pytest.fixture
def store(tmp_path: Path) -> MachineStore:
    places = Places.current({"PROA_HOME": str(tmp_path / "home")})
    places.make()
    return MachineStore(places)


def _make(store: MachineStore, name: str = "default", **options: object) -> MachineConfig:
    config = store.plan(name, MachineOptions(**options))  # type: ignore[arg-type]
    store.create(config)
    return config


def test_what_is_made_is_read_back(store: MachineStore) -> None:
    made = _make(store, memory=3 * GIB, cpus=2, image='odd "id"')
    assert store.load("default") == made
    assert store.names() == ("default",)
    assert stat.S_IMODE(store.paths("default").folder.stat().st_mode) == 0o700


def test_a_machine_is_not_made_twice(store: MachineStore) -> None:
    _make(store)
    with pytest.raises(ProaError) as caught:
        store.plan("default", MachineOptions())
    assert caught.value.code == "machine-exists"


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"version = 1\ncpus = = 2\n", "line 2"),
        (b"\xff\xfe", "utf-8"),
        (b"", "version"),
        (b"version = 2\n", "version 2"),
        (b'version = 1\n[idle]\nafter = "soon"\n', "time"),
        (b"version = 1\n[idle]\nwhen = 5\n", "when"),
        (b"version = 1\nmemory = 4\n", "memory"),
        (b'version = 1\nmemory = "lots"\n', "size"),
        (b"version = 1\ncpus = 0\n", "cpus"),
        (b"version = 1\nmemroy = '2GiB'\n", "memroy"),
        (b"version = 1\ndaemon = 3\n", "daemon"),
    ],
)
def test_a_corrupt_config_names_its_file_and_the_place(
    store: MachineStore, content: bytes, said: str
) -> None:
    _make(store)
    path = store.paths("default").config
    path.write_bytes(content)
    with pytest.raises(ProaError) as caught:
        store.load("default")
    assert caught.value.code == "config-corrupt"
    assert str(path) in caught.value.message
    assert said in caught.value.why
    assert path.read_bytes() == content, "the user's file is left as it is"


def test_keys_for_the_engine_are_kept_as_they_are(store: MachineStore) -> None:
    _make(store)
    with store.paths("default").config.open("a") as file:
        file.write('registry-mirrors = ["http://10.0.2.2:5000"]\n')
    assert store.load("default").daemon == {"registry-mirrors": ["http://10.0.2.2:5000"]}


def test_a_machine_with_a_disk_and_no_config_gets_one_and_keeps_its_disk(store: MachineStore) -> None:
    _make(store)
    assert not store.mend("default")
    paths = store.paths("default")
    paths.data_disk.write_text("precious")
    paths.config.unlink()
    store.sweep()
    assert store.mend("default")
    assert store.load("default").cpus == 1
    assert paths.data_disk.read_text() == "precious"


@pytest.mark.parametrize("content", [b"", b"{", b'{"version": 99}', b'{"intent": 5}', b"\xff"])
def test_a_broken_record_counts_as_none(store: MachineStore, content: bytes) -> None:
    _make(store)
    store.paths("default").state.write_bytes(content)
    assert store.record("default") == MachineRecord()


def test_what_a_crash_left_is_swept_and_machines_are_not(store: MachineStore) -> None:
    _make(store)
    machines = store.paths("default").folder.parent
    (machines / ".new-other").mkdir()
    (machines / ".old-gone").mkdir()
    (machines / "not a name").mkdir()
    (machines / "hollow").mkdir()
    assert sorted(Path(name).name for name in store.sweep()) == [".new-other", ".old-gone", "hollow"]
    assert sorted(entry.name for entry in machines.iterdir()) == [OURS, "default", "not a name"]
    assert store.names() == ("default",)


def test_delete_removes_all_of_a_machine_and_of_no_other(store: MachineStore) -> None:
    _make(store)
    _make(store, "other")
    store.paths("default").console_log.write_text("x")
    store.delete("default")
    store.delete("default")  # twice is fine
    assert store.names() == ("other",)
    assert not store.paths("default").console_log.exists()


def test_when_a_machine_counts_as_unused_is_set_in_its_file(store: MachineStore) -> None:
    assert _make(store).setting("idle.after") == "5m"
    config = store.paths("default").config
    text = config.read_text()
    config.write_text(text.replace("# [idle]", "[idle]").replace('# after = "5m"', 'after = "off"'))
    assert store.load("default").setting("idle.after") == "off"
    assert store.load("default").setting("idle.with_containers") is False
    config.write_text("version = 1\n[idle]\nwith_containers = true\n")
    assert store.load("default").setting("idle.with_containers") is True
