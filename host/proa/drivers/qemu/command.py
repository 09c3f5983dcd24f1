"""QEMU's command line, by small pure functions: what is wanted in, arguments out. No secret is ever in it."""

from __future__ import annotations

import json
from pathlib import Path

from proa.drivers.base import BootSpec
from proa.model.sizes import MIB

LINK_PORT = 7000  # the guest agent's, on its own card
LINK_ADDRESS = "10.0.3.15"
MACS = {"net0": "52:54:00:70:72:01", "link0": "52:54:00:70:72:02"}
# A panic ends QEMU at once (panic=-1 reboots, -no-reboot exits): the agent sees it within moments.
KERNEL_ARGUMENTS = "console=ttyS0 panic=-1 quiet loglevel=4"
# Emulation does not speculate, so there is nothing to mitigate. It keeps translated code by virtual
# address: with random ones every new process is translated anew, which made dockerd's hundred
# iptables calls take 6 s instead of 2. The guest's init turns randomising on again for all but dockerd.
EMULATED_ARGUMENTS = "mitigations=off norandmaps"


def escape(path: Path | str) -> str:
    """A value inside a comma-separated option: QEMU reads `,,` as one comma (qemu-options)."""
    return str(path).replace(",", ",,")


def machine(accelerator: str) -> list[str]:
    # Devices that no guest of ours looks at cost 0.6 s of a boot under emulation.
    without = ",".join(f"{name}=off" for name in ("hpet", "sata", "smbus", "usb", "vmport"))
    return ["-machine", f"q35,{without},dump-guest-core=off", "-accel", accelerated(accelerator)]


def accelerated(accelerator: str) -> str:
    # Multi-threaded emulation panicked one guest in eight long starts on QEMU 7.2 (MEASURED.md).
    return "tcg,thread=single" if accelerator == "tcg" else accelerator


def processor(accelerator: str, cpus: int) -> list[str]:
    # Under emulation five-level page tables only cost, and `rep movsb` goes byte by byte.
    models = {"tcg": "max,la57=off,erms=off", "kvm": "host", "hvf": "host"}
    return ["-cpu", models.get(accelerator, "max"), "-smp", f"cpus={cpus}"]


def memory(size: int, shared_fd: int | None = None) -> list[str]:
    """`shared_fd` is the inherited descriptor of a file that is the guest's memory (MEASURED.md)."""
    plain = ["-m", f"size={size // MIB}M"]
    if shared_fd is None:
        return plain
    backend = f"memory-backend-file,id=ram,size={size // MIB}M,mem-path=/proc/self/fd/{shared_fd},share=on"
    return [*plain, "-object", backend, "-machine", "memory-backend=ram"]


def kernel(spec: BootSpec, accelerator: str) -> list[str]:
    emulated = EMULATED_ARGUMENTS if accelerator == "tcg" else ""
    line = " ".join(filter(None, (KERNEL_ARGUMENTS, emulated, spec.command_line)))
    return ["-kernel", str(spec.kernel), "-initrd", str(spec.initrd), "-append", line]


def disks(spec: BootSpec) -> list[str]:
    """The formats are named and the data disk's backing file is null: nothing a disk says is followed.

    A write that fails pauses the guest: reported, it would cost the guest's file system its journal.
    """
    root = f"driver=file,node-name=root-file,filename={escape(spec.root)},read-only=on,auto-read-only=off"
    data = f"driver=file,node-name=data-file,filename={escape(spec.data_disk)},discard=unmap,aio=threads"
    # Only in its JSON form can the option say null.
    qcow2 = {
        "driver": "qcow2",
        "node-name": "data",
        "file": "data-file",
        "backing": None,
        "discard": "unmap",
        "detect-zeroes": "unmap",
    }
    return [
        *("-blockdev", root),
        *("-blockdev", "driver=raw,node-name=root,file=root-file,read-only=on"),
        *("-device", "virtio-blk-pci,drive=root,serial=proa-root"),
        *("-blockdev", data),
        *("-blockdev", json.dumps(qcow2)),
        *("-device", "virtio-blk-pci,drive=data,serial=proa-data,discard=on,werror=stop"),
    ]


def networks() -> list[str]:
    """The guest's own card, and the link's: restricted, so that it leads nowhere but to the agent."""
    # After a restore a card would tell its network where it is now, five times: this network knows.
    card = "romfile=,guest_announce=off"
    forward = f"hostfwd=tcp:127.0.0.1:0-{LINK_ADDRESS}:{LINK_PORT}"
    return [
        *("-netdev", "user,id=net0,ipv6=off"),
        *("-device", f"virtio-net-pci,netdev=net0,mac={MACS['net0']},{card}"),
        *("-netdev", f"user,id=link0,ipv6=off,restrict=on,net=10.0.3.0/24,host=10.0.3.2,{forward}"),
        *("-device", f"virtio-net-pci,netdev=link0,mac={MACS['link0']},{card}"),
    ]


def devices(guest_config: Path) -> list[str]:
    return [
        *("-device", "virtio-rng-pci"),
        *("-device", "virtio-balloon-pci,free-page-reporting=on"),
        *("-fw_cfg", f"name=opt/io.proa/config,file={escape(guest_config)}"),
    ]


def sockets(runtime: Path) -> list[str]:
    """Monitor and console, as sockets in the private folder."""
    return [
        *("-chardev", f"socket,id=qmp,path={escape(runtime / 'qmp.sock')},server=on,wait=off"),
        *("-mon", "chardev=qmp,mode=control"),
        *("-chardev", f"socket,id=console,path={escape(runtime / 'console.sock')},server=on,wait=off"),
        *("-serial", "chardev:console"),
    ]


def sandbox(system: str) -> list[str]:
    """seccomp, where QEMU has it: on Linux."""
    if system != "linux":
        return []
    return ["-sandbox", "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny"]


def command(
    qemu: Path,
    spec: BootSpec,
    accelerator: str,
    system: str,
    *,
    shared_fd: int | None = None,
    incoming: bool = False,
) -> list[str]:
    """The whole command line of a machine, which starts paused; `incoming`: it waits for a saved state."""
    return [
        str(qemu),
        *("-name", f"{spec.name},process=proa-{spec.name}" if system == "linux" else spec.name),
        *("-nodefaults", "-no-user-config", "-no-reboot", "-S", "-display", "none", "-rtc", "base=utc"),
        *sandbox(system),
        *machine(accelerator),
        *processor(accelerator, spec.cpus),
        *memory(spec.memory, shared_fd),
        *(("-incoming", "defer") if incoming else ()),
        *kernel(spec, accelerator),
        *disks(spec),
        *networks(),
        *devices(spec.guest_config),
        *sockets(spec.runtime),
    ]


def probe_command(qemu: Path, kernel_file: Path, initrd: Path, accelerator: str, system: str) -> list[str]:
    """The smallest boot that proves an accelerator: our kernel and initrd say a word and power off."""
    return [
        str(qemu),
        *("-nodefaults", "-no-user-config", "-no-reboot", "-display", "none"),
        *sandbox(system),
        *machine(accelerator),
        *processor(accelerator, 1),
        *memory(512 * MIB),
        *("-kernel", str(kernel_file), "-initrd", str(initrd)),
        *("-append", f"{KERNEL_ARGUMENTS} proa.probe"),
        *("-serial", "stdio"),
    ]
