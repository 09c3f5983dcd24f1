"""The container images that the real-input tests use, as recipes over Debian 12's packages.

Small on purpose: every byte is hashed and unpacked by an emulated guest. A layer holds what `keep`
names, the libraries those programs are linked with, and `files`; Debian 12 because its Node.js is 18.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

SUITE = "bookworm"
_APPLETS = """
ash awk basename cat chmod chown cp cut date dd df dirname du echo env expr false find free grep gunzip
gzip head hexdump hostname httpd id ifconfig ip kill ln ls md5sum mkdir mkfifo mknod mktemp more mount mv
nc netstat nproc nslookup od ping printf ps pwd readlink realpath rm rmdir route sed seq setsid sha256sum
sh sleep sort stat stty sync tail tar tee test time timeout top touch tr true truncate tty umount uname
uniq uptime vi wc wget which whoami xargs yes
"""
_PATH = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_PASSWD = """\
root:x:0:0:root:/root:/bin/sh
www-data:x:33:33:www-data:/var/www:/bin/sh
postgres:x:999:999:postgres:/var/lib/postgresql:/bin/sh
redis:x:998:998:redis:/data:/bin/sh
node:x:1000:1000:node:/home/node:/bin/sh
nobody:x:65534:65534:nobody:/:/bin/false
"""
_GROUP = """\
root:x:0:
www-data:x:33:
redis:x:998:
postgres:x:999:
node:x:1000:
nogroup:x:65534:
"""


@dataclass(frozen=True)
class File:
    """A file, or a symbolic link where `target` is set, or a folder where `content` is None."""

    path: str
    content: bytes | None = None
    target: str = ""
    mode: int = 0o644
    owner: int = 0


@dataclass(frozen=True)
class Recipe:
    repository: str
    tag: str
    packages: tuple[str, ...]
    keep: tuple[str, ...]  # fnmatch patterns of paths in the packages, without the leading slash
    config: Mapping[str, Any]  # the image's `config`
    files: tuple[File, ...] = ()
    npm: str = ""  # an npm package put into /usr/local/lib/node_modules with its programs
    npm_drop: tuple[str, ...] = ()
    drop: tuple[str, ...] = ()  # stronger than keep
    debian: str = field(default=SUITE)

    @property
    def name(self) -> str:
        return f"{self.repository}:{self.tag}"


def _base() -> tuple[File, ...]:
    """A shell with its tools, users, and the folders that a program expects."""
    applets = tuple(File(f"bin/{name}", target="busybox") for name in _APPLETS.split())
    folders = tuple(
        File(name, mode=0o755) for name in ("dev", "etc", "proc", "root", "run", "sys", "usr/bin", "var")
    )
    return (
        *folders,
        File("tmp", mode=0o1777),
        File("usr/bin/env", target="/bin/busybox"),
        File("etc/passwd", _PASSWD.encode()),
        File("etc/group", _GROUP.encode()),
        File("etc/nsswitch.conf", b"passwd: files\ngroup: files\nhosts: files dns\n"),
        *applets,
    )


_NGINX_CONF = b"""\
worker_processes 1;
pid /run/nginx.pid;
error_log /dev/stderr notice;
events { worker_connections 2048; }
http {
    include /etc/nginx/mime.types;
    access_log /dev/stdout;
    sendfile on;
    client_body_temp_path /tmp/body; proxy_temp_path /tmp/proxy; fastcgi_temp_path /tmp/fastcgi;
    uwsgi_temp_path /tmp/uwsgi; scgi_temp_path /tmp/scgi;
    include /etc/nginx/conf.d/*.conf;
}
"""
_NGINX_SITE = b"""\
server {
    listen 80;
    listen [::]:80;
    root /usr/share/nginx/html;
}
"""
# As the well-known image does: a first start makes the cluster, with the password that the environment gives.
_POSTGRES_ENTRY = b"""\
#!/bin/sh
set -e
if [ "$1" = postgres ] && [ ! -s "$PGDATA/PG_VERSION" ]; then
    [ -n "$POSTGRES_PASSWORD" ] || { echo "POSTGRES_PASSWORD is not set" >&2; exit 1; }
    echo "$POSTGRES_PASSWORD" > /tmp/password
    initdb --no-sync --locale=C --encoding=UTF8 --auth-local=trust --auth-host=scram-sha-256 \\
        --username="${POSTGRES_USER:-postgres}" --pwfile=/tmp/password
    rm /tmp/password
    echo "host all all all scram-sha-256" >> "$PGDATA/pg_hba.conf"
fi
exec "$@"
"""
_POSTGRES = "usr/lib/postgresql/15"


def recipes(certificates: Path) -> tuple[Recipe, ...]:
    """All images. `certificates` is the host's bundle: the network may sit behind an authority of its own."""
    return (
        Recipe(
            "library/busybox",
            "latest",
            ("busybox-static",),
            ("bin/busybox",),
            {"Env": [_PATH], "Cmd": ["sh"]},
            _base(),
        ),
        Recipe(
            "library/nginx",
            "latest",
            ("nginx-light", "busybox-static"),
            ("bin/busybox", "usr/sbin/nginx", "etc/nginx/mime.types", "usr/share/nginx/html/*"),
            {
                "Env": [_PATH],
                "Cmd": ["nginx", "-g", "daemon off;"],
                "ExposedPorts": {"80/tcp": {}},
                "StopSignal": "SIGQUIT",
            },
            (
                *_base(),
                File("etc/nginx/nginx.conf", _NGINX_CONF),
                File("etc/nginx/conf.d/default.conf", _NGINX_SITE),
                File("var/log/nginx", mode=0o755),
                File("var/lib/nginx", mode=0o755),
            ),
        ),
        Recipe(
            "library/sqlite",
            "latest",
            ("sqlite3", "busybox-static"),
            ("bin/busybox", "usr/bin/sqlite3"),
            {"Env": [_PATH], "Cmd": ["sqlite3"]},
            (*_base(), File("data", mode=0o777)),
        ),
        Recipe(
            "library/inotify",
            "latest",
            ("inotify-tools", "util-linux", "busybox-static"),
            ("bin/busybox", "usr/bin/inotifywait", "usr/bin/flock"),
            {"Env": [_PATH], "Cmd": ["inotifywait"]},
            _base(),
        ),
        Recipe(
            "library/redis",
            "latest",
            ("redis-server", "busybox-static"),
            ("bin/busybox", "usr/bin/redis-server", "usr/bin/redis-check-rdb", "usr/bin/redis-cli"),
            {
                "Env": [_PATH],
                "Cmd": ["redis-server", "--protected-mode", "no"],
                "ExposedPorts": {"6379/tcp": {}},
                "User": "redis",
                "Volumes": {"/data": {}},
                "WorkingDir": "/data",
            },
            (*_base(), File("data", mode=0o755, owner=998)),
        ),
        _postgres(),
        _node(certificates.read_bytes()),
    )


def _postgres() -> Recipe:
    return Recipe(
        "library/postgres",
        "latest",
        ("postgresql-15", "busybox-static"),
        (
            "bin/busybox",
            f"{_POSTGRES}/bin/postgres",
            f"{_POSTGRES}/bin/initdb",
            f"{_POSTGRES}/bin/pg_ctl",
            f"{_POSTGRES}/bin/pg_isready",
            f"{_POSTGRES}/bin/psql",
            f"{_POSTGRES}/lib/*.so",
            "usr/share/postgresql/15/*",
            "usr/share/zoneinfo/UTC",
            "usr/share/zoneinfo/Etc/UTC",
        ),
        {
            "Env": [
                f"{_PATH}:/{_POSTGRES}/bin",
                "PGDATA=/var/lib/postgresql/data",
                "TZ=UTC",
            ],
            "Entrypoint": ["docker-entrypoint.sh"],
            "Cmd": ["postgres", "-c", "listen_addresses=*", "-c", "shared_buffers=16MB", "-c", "jit=off"],
            "ExposedPorts": {"5432/tcp": {}},
            "StopSignal": "SIGINT",
            "User": "postgres",
            "Volumes": {"/var/lib/postgresql/data": {}},
        },
        (
            *_base(),
            File("usr/local/bin/docker-entrypoint.sh", _POSTGRES_ENTRY, mode=0o755),
            File("var/lib/postgresql", mode=0o755, owner=999),
            File("var/lib/postgresql/data", mode=0o700, owner=999),
            File("var/run/postgresql", mode=0o775, owner=999),
        ),
        drop=(
            "*/bitcode/*",
            "*/llvmjit*",
            "*/man/*",
            "*/tsearch_data/*.sample",
            "*/extension/[!a]*--*--*.sql",
        ),
    )


def _node(certificates: bytes) -> Recipe:
    return Recipe(
        "library/node",
        "18",
        ("nodejs", "busybox-static", "sshfs", "git"),
        # Modules that npm brings, Rollup for one, are linked with libraries that Node.js itself is not.
        (
            "bin/busybox",
            "usr/bin/node",
            "usr/bin/sshfs",  # what the bench compares a mount with
            "usr/bin/git",
            "usr/share/nodejs/*",
            "lib/*/libdl.so.2",
            "lib/*/librt.so.1",
            "lib/*/libpthread.so.0",
        ),
        {
            "Env": [_PATH, "NODE_EXTRA_CA_CERTS=/etc/ssl/certs/ca-certificates.crt"],
            "Cmd": ["node"],
        },
        (
            *_base(),
            File("etc/ssl/certs/ca-certificates.crt", certificates),
            File("home/node", mode=0o755, owner=1000),
        ),
        npm="npm@9",
        npm_drop=("docs/*", "man/*", "*/test/*", "*.md", "*.map", "*.d.ts", "*/node-gyp/gyp/*", "*/LICENSE*"),
        drop=("usr/share/nodejs/@types/*", "*.d.ts", "*.map", "*.md"),
    )
