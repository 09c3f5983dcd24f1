"""`proa completion`: what a shell asks to complete proa's words, and the answers that need more than click.

Nothing here starts an agent: names of machines are read from disk, Docker's own words asked from docker.
"""

from __future__ import annotations

import os

import click
from click.shell_completion import CompletionItem, get_completion_class

VARIABLE = "_PROA_COMPLETE"
SHELLS = ("bash", "zsh", "fish")
DOCKER_TIMEOUT = 3.0  # seconds; whoever pressed TAB waits no longer
_NO_SPACE, _NO_FILES = 2, 4  # bits of the directive that ends cobra's answer (cobra: ShellCompDirective)
_INSTALL = {
    "bash": '# in ~/.bashrc:  eval "$(proa completion bash)"',
    "zsh": '# in ~/.zshrc, after compinit:  eval "$(proa completion zsh)"',
    "fish": "# in ~/.config/fish/config.fish:  proa completion fish | source",
}


@click.command(epilog='Example:  eval "$(proa completion bash)"')
@click.argument("shell", type=click.Choice(SHELLS))
def completion_verb(shell: str) -> None:
    """Print what lets a shell complete verbs, options, names of machines, and docker's words.

    For bash, put the line of the example into ~/.bashrc; for zsh into ~/.zshrc; for fish:
    proa completion fish | source, in ~/.config/fish/config.fish.
    """
    click.echo(_INSTALL[shell])
    click.echo(source(shell))


def respond(group: click.Group, instruction: str) -> int:
    """Answer the script that `proa completion` printed (`bash_complete`, …) with what fits; the exit status.

    Docker's words go to docker as they are: click would take some of its options for ours.
    """
    from proa.model.errors import ProaError

    kind = get_completion_class(instruction.partition("_")[0])
    if kind is None or "COMP_WORDS" not in os.environ:
        return 1
    shell = kind(group, {}, "proa", VARIABLE)
    words, incomplete = shell.get_completion_args()
    try:
        if words[:1] == ["docker"]:
            items = docker_items(words[1:], incomplete)
        else:
            items = shell.get_completions(words, incomplete)
    except (ProaError, click.ClickException):
        return 0  # what was typed so far is no command: there is nothing to offer
    for item in items:
        click.echo(shell.format_completion(item))
    return 0


def source(shell: str) -> str:
    """The shell's script, by click's own template; the shell itself need not be there."""
    kind = get_completion_class(shell)
    assert kind is not None
    made = kind(click.Group(), {}, "proa", VARIABLE)
    return made.source_template % made.source_vars()


def machine_items(incomplete: str) -> list[CompletionItem]:
    """Machines on disk whose names begin so."""
    from proa.cli.common import machine_names
    from proa.model.errors import ProaError
    from proa.system.paths import Places

    try:
        names = machine_names(Places.current().machines)
    except ProaError:
        return []
    return [CompletionItem(name) for name in names if name.startswith(incomplete)]


def docker_items(words: list[str], incomplete: str) -> list[CompletionItem]:
    """What docker's own completion says to `proa docker WORDS… INCOMPLETE`; nothing where there is none."""
    from proa.cli.docker import choose, split
    from proa.model.errors import ProaError
    from proa.system.processes import run
    from proa.system.roots import engine_socket, run_folder

    if words and words[-1] == "--machine":
        return machine_items(incomplete)
    try:
        name, argv = split(words, os.environ)
        socket = engine_socket(run_folder(os.environ), name)
        own = [] if argv or not "--machine".startswith(incomplete or "x") else [CompletionItem("--machine")]
        chosen = choose([], os.environ)
        if chosen is None:  # the guest's is too far away to be asked at each key
            return own
        environ = {key: value for key, value in os.environ.items() if key not in ("DOCKER_CONTEXT", VARIABLE)}
        environ["DOCKER_HOST"] = f"unix://{socket}"
        done = run([chosen[0], "__complete", *argv, incomplete], timeout=DOCKER_TIMEOUT, env=environ)
    except ProaError:
        return []
    return own + cobra_items(done.stdout.decode("utf-8", "replace"), incomplete)


def cobra_items(answer: str, incomplete: str) -> list[CompletionItem]:
    """The words of cobra's answer to `__complete`: a word and its help a line, then `:` and a directive."""
    *lines, last = answer.strip().splitlines() or [""]
    if not last.startswith(":") or not last[1:].isdecimal():
        return []
    directive = int(last[1:])
    items = []
    for line in lines:
        word, _, help_text = line.partition("\t")
        if word and word.isprintable() and not word.startswith("_activeHelp_"):
            items.append(CompletionItem(word, help=help_text or None))
    if not items and not directive & _NO_FILES:
        return [CompletionItem(incomplete, type="file")]
    return items
