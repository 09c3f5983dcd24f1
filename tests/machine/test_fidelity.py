"""The same conversations with an engine directly and through Proa: the same bytes, in the same order.

The engine is the guest's own release, run natively, and so is the guest agent; the proxy is the real one.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.support.conversations import Stage
from tests.support.fidelity import attach, bodies, clients, streams
from tests.support.native_engine import NativeEngine
from tests.support.native_front import NativeFront

pytestmark = [pytest.mark.machine, pytest.mark.timeout(300)]
IMAGE = "busybox"
VARYING = {
    clients.docker_py,
    clients.docker_java,
    clients.vs_code,
    streams.import_and_save,
    bodies.chunks_of_any_size,
    bodies.bind_mounts,
}  # dates change their lengths
CONVERSATIONS: tuple[Callable[[Stage], None], ...] = (
    attach.attach_raw,
    attach.attach_upgraded,
    attach.attach_tty,
    attach.attach_detach_keys,
    attach.attach_websocket,
    attach.exec_raw,
    attach.exec_with_input,
    attach.exec_tty,
    attach.exec_ctrl_c,
    attach.exec_detach_keys,
    attach.exec_detached,
    bodies.chunks_of_any_size,
    bodies.byte_by_byte,
    bodies.expect_continue,
    bodies.answered_before_the_body,
    bodies.pipelined,
    bodies.pipelined_and_half_closed,
    bodies.http_1_0,
    bodies.connection_close,
    bodies.unusual_requests,
    bodies.malformed_requests,
    bodies.bad_json,
    bodies.large_registry_config,
    bodies.errors,
    bodies.head_ping,
    bodies.bind_mounts,
    streams.logs_follow,
    streams.events,
    streams.wait_for_the_end,
    streams.stats,
    streams.session_and_grpc,
    streams.import_and_save,
    clients.docker_py,
    clients.docker_java,
    clients.vs_code,
)


@pytest.mark.parametrize("conversation", CONVERSATIONS, ids=lambda function: function.__name__)
def test_no_client_can_tell(
    engine: NativeEngine, front: NativeFront, conversation: Callable[[Stage], None]
) -> None:
    transcripts = []
    for path in (engine.socket, front.socket):
        stage = Stage(path, IMAGE)
        try:
            conversation(stage)
        finally:
            stage.sweep()
        transcripts.append(stage.transcript(lengths=conversation not in VARYING))
    assert transcripts[1] == transcripts[0]
