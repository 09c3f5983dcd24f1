"""proa(1), made of the commands' own help, so that it says what `--help` says."""

from __future__ import annotations

import re
from collections.abc import Iterable

import click

_ENVIRONMENT = (
    ("PROA_HOME", "Everything in this folder, instead of the system's own places: an absolute, short path."),
    ("PROA_MACHINE", "The machine that is meant where no name is given; otherwise it is \\fBdefault\\fR."),
    ("PROA_DOCKER_CLI", "\\fBguest\\fR has \\fBproa docker\\fR run the machine's own Docker CLI."),
)
_FILES = (
    ("~/.local/share/proa/machines/NAME/machine.toml", "What a machine is to be."),
    ("$XDG_RUNTIME_DIR/proa/NAME/docker.sock", "Its engine's socket, private to the user."),
)
_LOGIN = """\
The package has systemd listen on Proa's sockets from the next login on: the first docker command starts
the agent, and with it a machine that was running when the computer went down. A machine that was stopped
stays stopped. After \\fBproa config set start_at_login true\\fR it is started right at the login.
.PP
Without any of it: \\fBsystemctl --user disable --now proa.socket\\fR, or for all users of this computer
\\fBsystemctl --global disable proa.socket\\fR."""


def escape(text: str) -> str:
    """Plain text for groff: no backslash, hyphen or leading dot that it would take for its own."""
    text = text.replace("\\", "\\e").replace("-", "\\-")
    text = re.sub(r"[^\x00-\x7f]", lambda char: f"\\[u{ord(char[0]):04X}]", text)
    return re.sub(r"^(?=[.'])", r"\\&", text, flags=re.MULTILINE)


def render(group: click.Group, version: str, date: str) -> str:
    """The page; `date` is a day in ISO form."""
    context = click.Context(group, info_name="proa")
    lines = [
        f'.TH PROA 1 "{date}" "proa {version}" "User Commands"',
        ".SH NAME",
        "proa \\- Docker containers in a small virtual machine of your own",
        ".SH SYNOPSIS",
        ".B proa",
        "[\\-\\-debug] VERB [ARGUMENT...]",
        ".SH DESCRIPTION",
        escape(group.help or ""),
        ".SH VERBS",
    ]
    for verb in group.list_commands(context):
        command = group.get_command(context, verb)
        assert command is not None
        lines += _verb(command, click.Context(command, info_name=verb, parent=context))
    lines += [".SH ENVIRONMENT", *_terms(_ENVIRONMENT), ".SH FILES", *_terms(_FILES)]
    lines += [".SH START AT LOGIN", _LOGIN]
    lines += [".SH EXIT STATUS", *_terms(_STATUS), ".SH SEE ALSO", ".BR docker (1)"]
    return "\n".join(lines) + "\n"


_STATUS = (
    ("0", "Done."),
    ("1", "Failed; the problem, its reason and the way out are on standard error."),
    ("2", "Wrong usage. \\fBproa docker\\fR and \\fBproa shell\\fR give the command's own status."),
)


def _verb(command: click.Command, context: click.Context) -> list[str]:
    pieces = " ".join(command.collect_usage_pieces(context))
    lines = [f".SS {escape(f'proa {context.info_name} {pieces}'.strip())}"]
    paragraphs = re.split(r"\n\s*\n", (command.help or "").strip())
    lines.append("\n.PP\n".join(escape(" ".join(text.split())) for text in paragraphs))
    records = [param.get_help_record(context) for param in command.get_params(context)]
    lines += _terms((escape(record[0]), escape(record[1])) for record in records if record and record[1])
    if isinstance(command, click.Group):
        for name in command.list_commands(context):
            below = command.get_command(context, name)
            if below is not None:
                lines += _verb(below, click.Context(below, info_name=f"{context.info_name} {name}"))
    if command.epilog:
        example = command.epilog.removeprefix("Example:").strip()
        lines += [".PP", "Example:", ".PP", ".nf", escape(example), ".fi"]
    return lines


def _terms(pairs: Iterable[tuple[str, str]]) -> list[str]:
    return [line for term, text in pairs for line in (".TP", f"\\fB{term}\\fR", text)]
