"""``kaito``: the commands a person types. Each lives in a module that is imported only when it is asked for."""

import importlib
import sys

import typer

from local_cluster.errors import LocalClusterError

COMMANDS = {
    "demo": "kaito_cli.demo",
    "local": "kaito_cli.local",
    "status": "kaito_cli.status",
    "chat": "kaito_cli.chat",
}
"""Command → the module whose ``mount(app)`` adds it."""


def application(first_argument: str = "") -> typer.Typer:
    """The command line, with the one command that ``first_argument`` names, or with all of them for help."""
    app = typer.Typer(
        name="kaito",
        help="A Workspace becomes a running language model on Kubernetes.",
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    app.callback()(_no_command_of_its_own)
    wanted = [COMMANDS[first_argument]] if first_argument in COMMANDS else COMMANDS.values()
    for module in dict.fromkeys(wanted):
        importlib.import_module(module).mount(app)
    return app


def main() -> None:
    """Exit code 0 when done, 1 with one line on what is wrong, 2 for a command line that makes no sense."""
    try:
        application(sys.argv[1] if len(sys.argv) > 1 else "")()
    except LocalClusterError as error:
        sys.stderr.write(f"{error}\n")
        sys.exit(1)


def _no_command_of_its_own() -> None:
    """Makes typer keep the name of a command even where there is only one."""


if __name__ == "__main__":
    main()
