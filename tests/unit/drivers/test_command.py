"""QEMU's command line: config in, exact arguments out."""

from __future__ import annotations

import json
from pathlib import Path

from proa.drivers.base import BootSpec
from proa.drivers.qemu import command

SPEC = BootSpec(
    name="default",
    cpus=2,
    memory=2 << 30,
    kernel=Path("/i/kernel"),
    initrd=Path("/i/initrd"),
    root=Path("/i/root.erofs"),
    data_disk=Path("/m/a,b c/data.qcow2"),
    command_line="quiet2",
    guest_config=Path("/r/x,y/guest.json"),
    runtime=Path("/r/x,y"),
    console_log=Path("/l/console.log"),
    lock_fd=5,
)


def build(accelerator: str = "tcg", system: str = "linux") -> list[str]:
    return command.command(Path("/usr/bin/qemu"), SPEC, accelerator, system)


def value(argv: list[str], option: str, start: str = "") -> str:
    found = [argv[i + 1] for i, word in enumerate(argv) if word == option and argv[i + 1].startswith(start)]
    assert len(found) == 1, (option, found)
    return found[0]


def test_nothing_that_was_not_asked_for() -> None:
    argv = build()
    for word in ("-nodefaults", "-no-user-config", "-no-reboot", "-S"):
        assert word in argv
    assert value(argv, "-display") == "none"


def test_commas_of_paths_do_not_become_options() -> None:
    argv = build()
    assert "path=/r/x,,y/qmp.sock," in value(argv, "-chardev", "socket,id=qmp")
    assert value(argv, "-fw_cfg") == "name=opt/io.proa/config,file=/r/x,,y/guest.json"
    assert "filename=/m/a,,b c/data.qcow2," in value(argv, "-blockdev", "driver=file,node-name=data-file")


def test_no_disk_is_probed_and_no_backing_file_followed() -> None:
    argv = build()
    assert "-drive" not in argv
    assert value(argv, "-blockdev", "driver=raw").endswith("read-only=on")
    qcow2 = json.loads(value(argv, "-blockdev", "{"))
    assert (qcow2["driver"], qcow2["backing"]) == ("qcow2", None)


def test_emulation_is_single_threaded_and_acceleration_uses_the_hosts_processor() -> None:
    assert value(build("tcg"), "-accel") == "tcg,thread=single"
    assert value(build("kvm"), "-accel") == "kvm"
    assert value(build("kvm"), "-cpu") == "host"
    assert value(build("hvf", "darwin"), "-cpu") == "host"
    assert value(build("whpx", "win32"), "-cpu") == "max"
    assert value(build("kvm"), "-smp") == "cpus=2"


def test_the_links_card_leads_nowhere_and_its_port_is_the_kernels_choice() -> None:
    link = value(build(), "-netdev", "user,id=link0")
    assert "restrict=on" in link
    assert "hostfwd=tcp:127.0.0.1:0-10.0.3.15:7000" in link


def test_a_panic_ends_the_machine() -> None:
    assert "panic=-1" in value(build(), "-append")
    assert value(build(), "-append").endswith("quiet2")


def test_the_sandbox_is_linuxs() -> None:
    assert "spawn=deny" in value(build(), "-sandbox")
    assert "-sandbox" not in build(system="darwin")


def test_a_probe_boots_the_same_machine_with_nothing_in_it() -> None:
    argv = command.probe_command(Path("/q"), Path("/k"), Path("/i"), "kvm", "linux")
    assert value(argv, "-append").endswith("proa.probe")
    assert "-netdev" not in argv and "-blockdev" not in argv
    assert value(argv, "-machine") == value(build("kvm"), "-machine")


def test_memory_is_an_inherited_shared_file_where_there_is_one() -> None:
    shared = command.command(Path("/usr/bin/qemu"), SPEC, "tcg", "linux", shared_fd=9)
    backend = value(shared, "-object")
    assert backend == "memory-backend-file,id=ram,size=2048M,mem-path=/proc/self/fd/9,share=on"
    assert "memory-backend=ram" in shared
    assert "-object" not in build()


def test_a_restored_machine_is_the_saved_one_that_waits_for_its_state() -> None:
    saved = command.command(Path("/usr/bin/qemu"), SPEC, "tcg", "linux", shared_fd=9)
    restored = command.command(Path("/usr/bin/qemu"), SPEC, "tcg", "linux", shared_fd=9, incoming=True)
    at = restored.index("-incoming")
    assert restored[at : at + 2] == ["-incoming", "defer"]
    assert [*restored[:at], *restored[at + 2 :]] == saved
