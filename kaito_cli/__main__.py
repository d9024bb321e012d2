"""``kaito``: the commands a person types. Each lives in a module that is imported only when it is asked for."""

import importlib
import sys
from pathlib import Path
from typing import Annotated, NoReturn

import typer

from local_cluster.errors import LocalClusterError

COMMANDS = {
    "demo": "kaito_cli.demo",
    "local": "kaito_cli.local",
    "models": "kaito_cli.models",
    "plan": "kaito_cli.plan",
    "status": "kaito_cli.status",
    "deploy": "kaito_cli.deploy",
    "chat": "kaito_cli.chat",
    "logs": "kaito_cli.logs",
    "doctor": "kaito_cli.doctor",
}
"""Command → the module whose ``mount(app)`` adds it."""


def application(first_argument: str = "") -> typer.Typer:
    """The command line, with the one command that ``first_argument`` names, or with all of them for help."""
    app = typer.Typer(
        name="kaito",
        help="A Workspace becomes a running language model on Kubernetes.",
        no_args_is_help=True,
        rich_markup_mode=None,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    app.callback()(_root)
    wanted = [COMMANDS[first_argument]] if first_argument in COMMANDS else COMMANDS.values()
    for module in dict.fromkeys(wanted):
        importlib.import_module(module).mount(app)
    return app


def main() -> None:
    """Exit code 0 when done, 1 with a line on what is wrong, 2 with a line for a command line that makes no sense."""
    try:
        wanted = application(sys.argv[1] if len(sys.argv) > 1 else "")
        sys.exit(wanted(prog_name=_called(sys.argv[0]), standalone_mode=False))
    except LocalClusterError as error:
        _fail(str(error), 1)
    except typer.TyperException as wrong:
        _fail(_advice(wrong), wrong.exit_code)
    except typer.Abort:
        _fail("stopped; nothing was changed after that", 1)
    except BrokenPipeError:
        # Who read our output has seen enough, as `kaito logs NAME | head` does; Python would complain when it flushes.
        sys.stdout = None
        sys.exit(1)


def _called(program: str) -> str:
    """What the user typed: kubectl starts its plugins by the name ``kubectl-kaito``."""
    return "kubectl kaito" if Path(program).name.startswith("kubectl-") else "kaito"


def _advice(wrong: typer.TyperException) -> str:
    """What is wrong with the command line and where the right one is shown; help itself stays as it is."""
    command = getattr(getattr(wrong, "ctx", None), "command_path", "kaito")
    told = wrong.format_message()
    return told if told.lstrip().startswith("Usage:") else f"{told.rstrip('.')}; see {command} --help"


def _print_version(asked: bool) -> None:
    if asked:
        from importlib.metadata import version

        typer.echo(f"kaito {version('kaito')}")
        raise typer.Exit


def _fail(message: str, code: int) -> NoReturn:
    sys.stderr.write(f"{message}\n")
    sys.exit(code)


def _root(
    *,
    version: Annotated[
        bool, typer.Option("--version", help="Print the version.", callback=_print_version, is_eager=True)
    ] = False,
) -> None:
    """Makes typer keep the name of a command even where there is only one."""


if __name__ == "__main__":
    main()
