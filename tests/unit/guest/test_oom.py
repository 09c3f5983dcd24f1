"""Who was ended because the guest was out of memory: records as Linux 6.12 writes them."""

from __future__ import annotations

from pathlib import Path

import pytest

from proa_guest.oom import OutOfMemory, victim

_HEAD = "4,812,91000000,-;oom-kill:constraint=CONSTRAINT_NONE,nodemask=(null),cpuset=/,mems_allowed=0"
_ID = "0123456789ab" + "c" * 52


@pytest.mark.parametrize(
    ("record", "who"),
    [
        (f"{_HEAD},global_oom,task_memcg=/,task=python3,pid=77,uid=0\n", "python3 (pid 77)"),
        (
            f"{_HEAD},global_oom,task_memcg=/docker/{_ID},task=java,pid=9,uid=1\n SUBSYSTEM=x\n",
            "java (pid 9, container 0123456789ab)",
        ),
        (f"{_HEAD},global_oom,task_memcg=/,task=a,pid=1,uid=2,pid=3,uid=4\n", "a,pid=1,uid=2 (pid 3)"),
        # a container's own limit is the container's matter
        (
            "4,1,1,-;oom-kill:constraint=CONSTRAINT_MEMCG,nodemask=(null),cpuset=/,mems_allowed=0,"
            f"oom_memcg=/docker/{_ID},task_memcg=/docker/{_ID},task=java,pid=9,uid=0\n",
            None,
        ),
        ("6,1,1,-;audit: user said oom-kill: global_oom\n", None),
        ("", None),
    ],
)
def test_who_was_ended(record: str, who: str | None) -> None:
    assert victim(record) == who


def test_what_was_ended_is_counted_from_now_on(tmp_path: Path) -> None:
    log_file = tmp_path / "kmsg"
    log_file.write_text("")
    memory = OutOfMemory(str(log_file))
    assert memory.look(1.0) is None
    with log_file.open("a") as log:
        log.write(f"{_HEAD},global_oom,task_memcg=/,task=python3,pid=77,uid=0\n")
    assert memory.report() == {"kills": 0, "victim": "", "at": 0.0}
    assert memory.look(42.06) == "python3 (pid 77)"
    assert memory.report() == {"kills": 1, "victim": "python3 (pid 77)", "at": 42.1}


def test_without_a_kernel_log_nothing_is_known(tmp_path: Path) -> None:
    assert OutOfMemory(str(tmp_path / "none")).look(1.0) is None
