"""Verbs that become something else: docker (for its help; the rest leaves from `entry`) and agent."""

from __future__ import annotations

import click

from proa.cli.docker import hand_over, usage


class _DockerHelp(click.Command):
    def get_help(self, ctx: click.Context) -> str:
        return usage()


@click.command(cls=_DockerHelp, context_settings={"ignore_unknown_options": True})
@click.argument("argv", nargs=-1, type=click.UNPROCESSED)
def docker_verb(argv: tuple[str, ...]) -> int:
    """Run the Docker CLI against the engine."""
    return hand_over(list(argv))


@click.command(epilog="Example:  proa agent")
def agent_verb() -> int:
    """Run the agent in the foreground; other verbs start it by themselves where it is not there.

    It ends on SIGTERM or Ctrl-C, and leaves machines running: the next agent takes them over.
    """
    from proa.agent.main import main

    return main()
