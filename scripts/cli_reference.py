"""docs/reference/cli.md, made from the command line itself."""

from collections.abc import Iterator
from enum import Enum
from pathlib import Path
from typing import Any

import typer

from kaito_cli.__main__ import application

PAGE = Path(__file__).parent.parent / "docs/reference/cli.md"
INTRODUCTION = """# Command line

Made from the commands by `make reference`. `kaito` is also a plugin of kubectl: `kubectl kaito status NAME`.

* Which cluster: `--kubeconfig`, else `$KUBECONFIG`, else the local cluster if one runs, else `~/.kube/config`;
  `--context` chooses one of the kubeconfig's contexts.
* Exit codes: 0 done, 1 with one line on what is wrong, 2 with one line for a command line that makes no sense.
* What a command prints goes to standard output; what it asks, remarks and refuses goes to standard error.
* Completion: `kaito --install-completion` for bash, zsh, fish and PowerShell.
"""


def page() -> str:
    """The page."""
    root = typer.main.get_command(application())
    return INTRODUCTION + "".join(f"\n{section}" for section in _sections(root, "kaito"))


def commands() -> set[str]:
    """Every command as it is typed, such as ``kaito local up``."""
    return {name for name, _ in _leaves(typer.main.get_command(application()), "kaito")}


def options(command: str) -> set[str]:
    """The options that a command takes."""
    found = dict(_leaves(typer.main.get_command(application()), "kaito"))[command]
    return {"--help", "-h", *(option for p in _options(found) for option in (*p.opts, *p.secondary_opts))}


def variables() -> Iterator[str]:
    """Every variable of the environment that an option or argument is read from."""
    root = typer.main.get_command(application())
    for _, command in _leaves(root, "kaito"):
        for given in command.params:
            names = given.envvar or ()
            yield from [names] if isinstance(names, str) else names


def _leaves(command: Any, name: str) -> Iterator[tuple[str, Any]]:
    below = getattr(command, "commands", {})
    if not below:
        yield name, command
    for word, one in below.items():
        yield from _leaves(one, f"{name} {word}")


def _sections(root: Any, name: str) -> Iterator[str]:
    for called, command in _leaves(root, name):
        arguments = [p for p in command.params if p.param_type_name == "argument"]
        usage = " ".join([called, "[OPTIONS]", *(_shown(p) for p in arguments)])
        rows = "".join(
            f"| {_cell(cell)} |\n" for cell in (*map(_argument, arguments), *map(_option, _options(command)))
        )
        table = f"\n| | default | |\n|---|---|---|\n{rows}" if rows else ""
        yield f"## {called}\n\n{_text(command.help)}\n\n```text\n{usage}\n```\n{table}"


def _options(command: Any) -> list[Any]:
    return [p for p in command.params if p.param_type_name == "option" and not p.hidden]


def _shown(argument: Any) -> str:
    name = (argument.metavar or argument.name).upper()
    return name if argument.required else f"[{name}]"


def _argument(argument: Any) -> str:
    return f"`{_shown(argument)}` | | {_text(argument.help)}"


def _option(option: Any) -> str:
    kind = option.type_descriptor.annotation
    choices = [f"`{choice.value}`" for choice in kind] if isinstance(kind, type) and issubclass(kind, Enum) else []
    values = f" One of {', '.join(choices)}." if choices else ""
    repeated = " May be repeated." if option.multiple else ""
    default = getattr(option.default, "value", option.default)
    shown = "" if default in (None, False, (), "") or callable(default) else f"`{default}`"
    names = ", ".join(f"`{name}`" for name in (*option.opts, *option.secondary_opts))
    return f"{names} | {shown} | {_text(option.help)}{values}{repeated}"


def _text(help: str | None) -> str:
    return " ".join((help or "").split())


def _cell(text: str) -> str:
    return text.replace("\n", " ")
