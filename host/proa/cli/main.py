"""The group of verbs, each imported when it is used; and the one place where an error becomes lines."""

from __future__ import annotations

import importlib
import os
import sys
from typing import TYPE_CHECKING, Any

import click

from proa.model.errors import ProaError

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

# Verb -> its module in this package, and the line that `proa --help` shows.
VERBS = {
    "start": ("machines", "Make the machine if there is none, start or wake it, wait for the engine."),
    "stop": ("machines", "Stop a machine and its containers."),
    "suspend": ("machines", "Put a machine to sleep with its containers; the next request wakes it."),
    "restart": ("machines", "Stop and start a machine."),
    "create": ("machines", "Make a machine without starting it."),
    "delete": ("machines", "Remove a machine with all its data."),
    "config": ("config", "Look at a machine's settings and change them."),
    "status": ("look", "What a machine is doing, measured from its engine."),
    "list": ("look", "All machines."),
    "ports": ("look", "Published ports, and why one is not bound."),
    "shares": ("shares", "Folders of this computer that containers may mount."),
    "share": ("shares", "Add or remove such a folder."),
    "env": ("look", "Print what lets this shell's docker find the engine."),
    "version": ("look", "Versions of Proa, its agent and the engine."),
    "docker": ("handover", "Run the Docker CLI against the engine."),
    "shell": ("shell", "A shell, or a command, in the guest."),
    "logs": ("logs", "The log of the agent, the console, the engine, containerd or the guest agent."),
    "image": ("image", "Guest images: list, build, fetch, import, verify, remove."),
    "doctor": ("doctor", "Check everything between this computer and a container, and say what to do."),
    "diagnose": ("diagnose", "Write what a helper needs to see into one file, without secrets."),
    "reset": ("reset", "Remove what Proa keeps on this computer; asks first."),
    "completion": ("completion", "Print what lets your shell complete proa's words."),
    "events": ("events", "What happened to the machines, and what was done about it."),
    "agent": ("handover", "Run the agent in the foreground."),
}
LOG_LINES = 8


class Verbs(click.Group):
    """Imports a verb when it is asked for; offers near matches of one that is not there."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(VERBS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in VERBS:
            return None
        module = importlib.import_module(f"proa.cli.{VERBS[cmd_name][0]}")
        command: click.Command = getattr(module, f"{cmd_name}_verb")
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The list, without importing every verb for its first line."""
        with formatter.section("Verbs"):
            formatter.write_dl([(verb, text) for verb, (_, text) in VERBS.items()])

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        """Verbs that begin so, from the table: a TAB waits for no import."""
        from click.shell_completion import CompletionItem

        if incomplete.startswith("-"):
            return super().shell_complete(ctx, incomplete)
        found = [(verb, text) for verb, (_, text) in VERBS.items() if verb.startswith(incomplete)]
        return [CompletionItem(verb, help=text) for verb, text in found]

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and args[0] not in VERBS and not args[0].startswith("-"):
            import difflib

            near = difflib.get_close_matches(args[0], VERBS, n=3)
            meant = f"did you mean {' or '.join(near)}?" if near else "see: proa --help"
            raise ProaError("unknown-verb", f"there is no verb {args[0][:40]!r}", hint=meant, usage=True)
        return super().resolve_command(ctx, args)


@click.group(
    cls=Verbs,
    subcommand_metavar="VERB [NAME] ...",
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="Example:  proa start && proa docker run -d -p 8080:80 proa/welcome",
)
@click.option("--debug", is_flag=True, help="Show where in Proa an error comes from; stands before the verb.")
def proa(debug: bool) -> None:
    """Docker containers in a small virtual machine of your own.

    A verb is about the machine NAME; without one about PROA_MACHINE's, or the one called `default`.
    Everything is kept below PROA_HOME where it is set, else in your system's usual folders.
    Something is wrong? `proa doctor` says what, and what to do.
    """


def run(argv: list[str], asked: int | None = None) -> int:
    """Run one verb; its exit status: 0 done, 1 failed with a problem, 2 wrong usage.

    `asked`: of a start, the descriptor of a connection on which the agent was asked for it already.
    """
    if instruction := os.environ.get("_PROA_COMPLETE"):
        from proa.cli.completion import respond

        return respond(proa, instruction)
    try:
        result = proa.main(argv, prog_name="proa", standalone_mode=False, obj=asked)
    except ProaError as error:
        if argv[:1] == ["--debug"]:
            raise
        return show(error)
    except click.ClickException as error:
        usage = ProaError("bad-usage", error.format_message().rstrip("."), hint=_help(error), usage=True)
        return show(usage)
    except click.exceptions.Abort:
        print("proa: stopped looking; what was begun goes on, see: proa status", file=sys.stderr)
        return 130
    return result if isinstance(result, int) else 0


def _help(error: click.ClickException) -> str:
    context: Any = getattr(error, "ctx", None)
    return f"see: {context.command_path if context else 'proa'} --help"


def show(error: ProaError) -> int:
    """The last lines of the log that belongs to the error, then the error; the exit status."""
    for line in error.log[-LOG_LINES:]:
        print("| " + "".join(char if char.isprintable() else " " for char in line)[:200], file=sys.stderr)
    print(*error.lines, sep="\n", file=sys.stderr)
    return 2 if error.usage else 1
