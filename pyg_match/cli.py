"""The command line: parse, call, print."""

from typing import Annotated

import typer

from pyg_match._version import __version__
from pyg_match.commands import collections, explore, match, training

app = typer.Typer(
    help="Match local image features with graph networks.", add_completion=False, no_args_is_help=True
)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"pyg-match {__version__}")
        raise typer.Exit()


@app.callback()
def _commands(
    version: Annotated[
        bool,
        typer.Option("--version", help="Print the version and exit.", callback=_print_version, is_eager=True),
    ] = False,
) -> None:
    """Match local image features with graph networks."""


for command in (match.match, training.train, training.narrow, training.export, explore.explore):
    app.command()(command)
app.command()(collections.extract)
app.command()(collections.pairs)
app.command(cls=collections.OptionalAddress)(collections.match_pairs)
app.command()(collections.to_colmap)


def main() -> None:
    """Entry point of the console script."""
    app()
