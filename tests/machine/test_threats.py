"""What a container must not reach: the engine, the guest agent, or the link (THREATS: the first border)."""

from __future__ import annotations

import json
import re
import socket
from pathlib import Path
from typing import Any

import pytest

from tests.support.clients import Docker
from tests.support.homes import Home
from tests.support.published import is_open, listeners_of, parse_listeners

pytestmark = [pytest.mark.machine, pytest.mark.timeout(300)]

GUEST, LINK, GATEWAY = "10.0.2.15", "10.0.3.15", "10.0.2.2"
LINK_PORT = 7000
CONTROL = 3999
# Listens once, and goes on when the kernel says so.
LISTEN = f"nc -l -p {CONTROL} & until grep -q :{CONTROL:04X} /proc/net/tcp*; do sleep 0.1; done; "
# Low ports, the engine's usual ones, and those of agents like ours.
PORTS = [*range(1, 1025), 2375, 2376, 2377, 3000, 4243, 5000, LINK_PORT, 7001, 7946, 8080, 8443, 9000, 10250]
# Connects to every pair, 64 at a time, and asks what is open for an engine. Prints [[address, port, answer]].
# A listener of its own is scanned too, so that a scan which finds nothing is known to work.
SCAN = r"""
const net = require('net');
const todo = JSON.parse(process.argv[1]);
const open = [];
function one() {
  const next = todo.pop();
  if (!next) return Promise.resolve();
  return new Promise((done) => {
    let answer = null;
    const socket = net.connect({host: next[0], port: next[1]});
    const end = () => {
      if (answer !== null) open.push([next[0], next[1], answer]);
      socket.destroy();
      done();
    };
    socket.setTimeout(3000, end);
    socket.on('connect', () => { answer = ''; socket.write('GET /_ping HTTP/1.1\r\nHost: x\r\n\r\n'); });
    socket.on('data', (data) => { answer += data.toString('latin1'); });
    socket.on('error', end);
    socket.on('end', end);
  }).then(one);
}
net.createServer((socket) => socket.end('control')).listen(CONTROL, '127.0.0.1', () => {
  todo.push(['127.0.0.1', CONTROL]);
  Promise.all(Array.from({length: 64}, one)).then(() => {
    console.log(JSON.stringify(open));
    process.exit(0);
  });
});
""".replace("CONTROL", str(CONTROL))
# In the guest, as its root: connects to the host's listener from the guest's network, then from the link's.
BY_THE_LINK = r"""
import glob, os, socket, sys
def reach(address):
    try:
        socket.create_connection((address, int(sys.argv[1])), 5).close()
    except OSError:
        return 'closed'
    return 'open'
print('own:' + reach('10.0.2.2'))
own = os.stat('/proc/self/ns/net').st_ino
links = [path for path in glob.glob('/proc/[0-9]*/fd/*') + glob.glob('/run/netns/*')
         if os.path.exists(path) and os.stat(path).st_dev == os.stat('/proc/self/ns/net').st_dev
         and os.stat(path).st_ino != own and ('net:[' in os.path.realpath(path) or 'netns' in path)]
os.setns(os.open(links[0], os.O_RDONLY), os.CLONE_NEWNET)
print('link:' + reach('10.0.3.2'))
"""
KINDS: dict[str, tuple[str, ...]] = {
    "bridge": (),
    "host-network": ("--network", "host"),
    "privileged": ("--privileged", "--network", "host", "--pid", "host"),
}


@pytest.mark.long
@pytest.mark.parametrize("kind", KINDS)
def test_nothing_of_the_guest_is_open(docker: Docker, kind: str) -> None:
    """Also of its bridge's address, where containers see the guest."""
    bridge = docker("network", "inspect", "bridge", "--format", "{{(index .IPAM.Config 0).Gateway}}").out
    todo = [[GUEST, port] for port in PORTS] + [[bridge or "172.17.0.1", port] for port in PORTS]
    if kind != "bridge":
        todo += [["127.0.0.1", port] for port in PORTS]
    assert _scan(docker, kind, todo) == []


def test_no_listener_in_the_guests_network(docker: Docker) -> None:
    """From a container in the guest's own network: the kernel lists no TCP listener but the test's."""
    tables = docker(
        "run", "--rm", "--network", "host", "busybox", "sh", "-c", LISTEN + "cat /proc/net/tcp /proc/net/tcp6"
    ).out
    assert [port for _, port, _ in parse_listeners(tables)] == [CONTROL]


def test_the_link_answers_no_container(docker: Docker, home: Home) -> None:
    """A container reaches the link's port by the host's loopback; without the secret it gets nothing."""
    (link,) = listeners_of(home.status()["pid"])
    assert link[0] == "127.0.0.1"
    answers = _scan(docker, "bridge", [[GATEWAY, link[1]]] * 3)
    for _, _, answer in answers:
        assert "Api-Version" not in answer and "HTTP/1" not in answer and "OK" not in answer
    docker("ps")  # and the real link goes on


def test_the_hosts_new_listeners_are_the_link_alone(docker: Docker, home: Home) -> None:
    """Nothing is published: hypervisor and agent together listen on one loopback port."""
    docker.sweep()
    pid = home.agent_pid()
    assert pid is not None
    assert listeners_of(pid) == set()
    assert [address for address, _ in listeners_of(home.status()["pid"])] == ["127.0.0.1"]
    assert not is_open("127.0.0.1", 2375)


def test_the_links_address_is_nowhere_a_container_can_go(docker: Docker) -> None:
    """Its card is in a network namespace of its own. (Some network of the host may have that address,
    so what counts is who answers: the guest agent speaks first, and in hexadecimal.)"""
    for network in ("bridge", "host"):
        seen = docker("run", "--rm", "--network", network, "--privileged", "busybox", "ip", "-o", "addr").out
        assert "10.0.3." not in seen
    greeted = docker("run", "--rm", "busybox", "sh", "-c", f"nc -w 2 {LINK} {LINK_PORT} </dev/null; true").out
    assert not re.search("[0-9a-f]{32}", greeted), greeted


def test_the_guests_root_cannot_reach_the_host_by_the_links_card(home: Home, machine: dict[str, Any]) -> None:
    """A listener on the host's loopback is reached by the guest's own card and not by the link's."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        argv = ["shell", "--", "python3", "-c", BY_THE_LINK, str(listener.getsockname()[1])]
        told = home.ok(*argv, timeout=120).split()
    assert told == ["own:open", "link:closed"], told


def test_the_secrets_are_not_in_a_container(docker: Docker, home: Home) -> None:
    """Not even a privileged one finds the link's secret in /sys, where fw_cfg would show it."""
    seen = docker(
        "run", "--rm", "--privileged", "busybox", "sh", "-c",
        "ls /sys/firmware/qemu_fw_cfg 2>&1; cat /proc/cmdline",
    ).out  # fmt: skip
    assert "No such file" in seen
    key = (home.folder / "run/default/link.key").read_bytes()
    assert key.hex() not in seen and key.decode("latin1").strip() not in seen


def test_the_sockets_are_the_users_own(docker: Docker, home: Home) -> None:
    for path in (home.folder, home.folder / "run", Path(docker.socket).parent):
        assert path.stat().st_mode & 0o777 == 0o700, path
    for path in (home.folder / "run/agent.sock", docker.socket, home.folder / "run/default/link.key"):
        assert path.stat().st_mode & 0o077 == 0, path


def _scan(docker: Docker, kind: str, todo: list[list[Any]]) -> list[list[Any]]:
    words = ("run", "--rm", *KINDS[kind], "node:18", "node", "-e", SCAN, json.dumps(todo))
    found: list[list[Any]] = json.loads(docker(*words, timeout=180).out.splitlines()[-1])
    control = ["127.0.0.1", CONTROL, "control"]
    assert control in found, "the scan finds what is open"
    return [entry for entry in found if entry != control]
