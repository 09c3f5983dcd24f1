"""docker-py, as editors and testcontainers use it, against the machine's socket."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Iterator

import pytest
from docker import DockerClient  # type: ignore[import-untyped]
from docker.errors import APIError, ContainerError, NotFound  # type: ignore[import-untyped]

from tests.support.clients import Docker
from tests.support.homes import Home

pytestmark = [pytest.mark.machine, pytest.mark.timeout(240)]


@pytest.fixture(scope="module")
def client(docker: Docker) -> Iterator[DockerClient]:
    client = DockerClient(base_url=f"unix://{docker.socket}", timeout=60)
    yield client
    client.close()


def test_ping_version_and_pull(client: DockerClient) -> None:
    assert client.ping()
    assert client.version()["Os"] == "linux"
    image = client.images.pull("busybox", tag="latest")
    assert "busybox:latest" in image.tags


def test_the_runtimes_version_is_what_the_runtime_says(client: DockerClient, home: Home) -> None:
    """It is asked once in a boot, and answered from what it said then."""
    said = home.ok("shell", "--", "runc", "--version")
    for _ in range(2):
        told = {part["Name"]: part for part in client.version()["Components"]}["runc"]
        assert f"runc version {told['Version']}\ncommit: {told['Details']['GitCommit']}\n" in said
    assert client.info()["RuncCommit"]["ID"] == told["Details"]["GitCommit"]


def test_run_and_errors(client: DockerClient) -> None:
    assert client.containers.run("busybox", "echo hi", remove=True) == b"hi\n"
    with pytest.raises(ContainerError) as failed:
        client.containers.run("busybox", "sh -c 'echo why >&2; exit 4'", remove=True)
    assert failed.value.exit_status == 4
    with pytest.raises(NotFound):
        client.containers.get("no-such-container")


def test_exec_logs_archive_and_wait(client: DockerClient) -> None:
    container = client.containers.run("busybox", "sh -c 'echo started; sleep 300'", detach=True)
    code, (out, err) = container.exec_run("sh -c 'echo out; echo err >&2; exit 6'", demux=True)
    assert (code, out, err) == (6, b"out\n", b"err\n")
    stream = container.logs(stream=True, follow=True)
    assert next(iter(stream)) == b"started\n"
    stream.close()

    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w") as tar:
        info = tarfile.TarInfo("note")
        info.size = 5
        tar.addfile(info, io.BytesIO(b"hello"))
    assert container.put_archive("/tmp", archive.getvalue())
    chunks, stat = container.get_archive("/tmp/note")
    assert stat["size"] == 5
    with tarfile.open(fileobj=io.BytesIO(b"".join(chunks))) as tar:
        note = tar.extractfile("note")
        assert note is not None and note.read() == b"hello"

    container.kill()
    assert container.wait()["StatusCode"] == 137
    container.remove()


def test_raw_attach_socket(client: DockerClient) -> None:
    """docker-py attaches with an upgrade and then owns the socket: bytes both ways, with half-close."""
    container = client.containers.create("busybox", "cat", stdin_open=True, tty=False)
    attached = container.attach_socket(params={"stdin": 1, "stdout": 1, "stream": 1})
    container.start()
    raw = attached._sock
    raw.sendall(b"to the container\n")
    raw.shutdown(1)
    received = b"".join(iter(lambda: raw.recv(4096), b""))
    attached.close()
    assert received[8:] == b"to the container\n", "after the stream's header of 8 bytes"
    container.remove(force=True)


@pytest.mark.long
def test_build_volumes_and_networks(client: DockerClient) -> None:
    image, _ = client.images.build(fileobj=io.BytesIO(b"FROM busybox\nRUN echo built > /built\n"), tag="py")
    volume = client.volumes.create("py-volume")
    network = client.networks.create("py-network")
    said = client.containers.run(
        image,
        "sh -c 'cp /built /v/; cat /v/built'",
        volumes={"py-volume": {"bind": "/v"}},
        network="py-network",
        remove=True,
    )
    assert said == b"built\n"
    network.remove()
    volume.remove()


def test_a_refused_bind_is_an_api_error(client: DockerClient) -> None:
    with pytest.raises(APIError, match="/etc"):
        client.containers.create("busybox", volumes={"/etc": {"bind": "/x"}})
