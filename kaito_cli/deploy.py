"""``kaito deploy``: from flags or questions to a Workspace, shown before it is applied."""

import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer

from kaito_cli.connection import Complaint, Context, Kubeconfig, Namespace, Output, meant, on_cluster
from kaito_cli.formats import Format, printed

if TYPE_CHECKING:
    from kaito_cli.manifest import Manifest, Wish
    from kaito_operator.kube.client import Kube


def mount(kaito: typer.Typer) -> None:
    """Adds ``deploy`` to the command line."""
    kaito.command("deploy")(deploy)


def deploy(
    name: Annotated[str | None, typer.Argument(help="What to call the Workspace.")] = None,
    preset: Annotated[str | None, typer.Option(help="The model.")] = None,
    instance_type: Annotated[str | None, typer.Option(help='The size of the machines; "" buys none.')] = None,
    count: Annotated[int, typer.Option(help="How many machines.", min=1)] = 1,
    label: Annotated[list[str] | None, typer.Option(help="KEY=VALUE of the nodes; app=NAME without any.")] = None,
    image: Annotated[str | None, typer.Option(help="A private image of the model.")] = None,
    pull_secret: Annotated[list[str] | None, typer.Option(help="A Secret to pull the image with.")] = None,
    adapter: Annotated[list[str] | None, typer.Option(help="NAME=IMAGE or NAME=IMAGE,STRENGTH.")] = None,
    tune: Annotated[str | None, typer.Option(help="Tune instead of serving: lora or qlora.")] = None,
    data: Annotated[list[str] | None, typer.Option(help="With --tune: a URL of training rows.")] = None,
    result: Annotated[str | None, typer.Option(help="With --tune: the image to push the adapter as.")] = None,
    push_secret: Annotated[str | None, typer.Option(help="With --tune: the Secret to push with.")] = None,
    config: Annotated[str | None, typer.Option(help="With --tune: a ConfigMap with training_config.yaml.")] = None,
    hub_secret: Annotated[str | None, typer.Option(help="The Secret with your Hub token, for a gated model.")] = None,
    model_files: Annotated[
        str | None, typer.Option(help="Where its files are from: baked, kaito, volume, hub.")
    ] = None,
    namespace: Namespace = "",
    kubeconfig: Kubeconfig = None,
    context: Context = None,
    output: Output = Format.TEXT,
    *,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the manifest and apply nothing.")] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Apply without asking.")] = False,
) -> None:
    """Make a Workspace from flags, or from answers where flags are missing; show it; apply it."""
    from kaito_cli.manifest import Unclear, Wish, manifest, mistakes, pairs

    asks = sys.stdin.isatty() and sys.stdout.isatty()
    space = meant(namespace, kubeconfig=kubeconfig, context=context)
    try:
        wish = Wish(
            *_named(name, preset, instance_type, namespace=space, count=count, asks=asks), count,
            pairs(label or [], option="--label"), image, tuple(pull_secret or ()), tuple(adapter or ()),
            tune, tuple(data or ()), result, push_secret, config, hub_secret, model_files,
        )  # fmt: skip
        wanted = manifest(wish)
    except Unclear as unclear:
        raise typer.BadParameter(str(unclear)) from unclear
    _refuse(mistakes(wanted))
    if dry_run:
        _warn(wanted)
        typer.echo(printed(wanted, Format.YAML if output is Format.TEXT else output))
        return
    _show(wanted, output)
    asks = asks and not yes
    applied = on_cluster(lambda kube: _applied(kube, wanted, asks=asks), kubeconfig=kubeconfig, context=context)
    _tell(applied, wish, output)


def _named(
    name: str | None, preset: str | None, size: str | None, *, namespace: str, count: int, asks: bool
) -> tuple[str, str, str, str]:
    """Name, namespace, preset and size: as given, or asked for."""
    if not asks:
        given = {"NAME": name, "--preset": preset, "--instance-type": size}
        missing = [flag for flag, value in given.items() if value is None]
        if missing:
            raise typer.BadParameter(f"{' and '.join(missing)} must be given, as nobody can be asked here")
    name = name if name is not None else typer.prompt("Name of the Workspace", err=True)
    preset = preset if preset is not None else typer.prompt("Model (kaito models lists them)", err=True)
    size = size if size is not None else typer.prompt("Instance type", default=_suggestion(preset, count), err=True)
    return str(name), namespace, str(preset), str(size)


def _suggestion(preset: str, count: int) -> str | None:
    """The smallest size that the model fits on; None where the catalogue does not know."""
    from presets.catalog import UnknownModel, load_catalog
    from presets.fit import smallest

    catalog = load_catalog()
    try:
        sizes = smallest(catalog.model(preset), count, catalog=catalog)
    except UnknownModel:
        return None
    return sizes[0] if sizes else None


def _refuse(wrong: list[str]) -> None:
    if wrong:
        sys.stderr.write("".join(f"{line}\n" for line in wrong))
        raise typer.Exit(1)


def _warn(wanted: "Manifest") -> None:
    """What an installation with our images would refuse; whether it has them is not known without a cluster."""
    from kaito_cli.manifest import mistakes
    from kaito_operator.api.runtime import Runtime

    for line in mistakes(wanted, runtime=Runtime()):
        sys.stderr.write(f"refused where our runtime serves it: {line}\n")


def _show(wanted: "Manifest", output: Format) -> None:
    """The plan, on standard error where standard output is for programs."""
    from kaito_cli.manifest import consequences

    plan = f"{printed(wanted, Format.YAML)}\n\n{consequences(wanted)}"
    typer.echo(plan, err=output is not Format.TEXT)


async def _applied(kube: "Kube", wanted: "Manifest", *, asks: bool) -> "dict[str, Any]":
    """Server-side apply as kaito-cli, of what this cluster's operator takes. Raises Complaint where there is no such
    kind."""
    from kaito_cli.installed import runtime
    from kaito_cli.manifest import mistakes
    from kaito_operator.kube.errors import NotFound

    _refuse(mistakes(wanted, runtime=await runtime(kube)))
    if asks:
        typer.confirm("Apply it?", abort=True, err=True)
    try:
        return dict(await kube.apply(wanted))
    except NotFound as unknown:
        told = f"the cluster says: {unknown.message}; does the namespace exist, is KAITO installed? see kaito doctor"
        raise Complaint(told) from unknown


def _tell(applied: "dict[str, Any]", wish: "Wish", output: Format) -> None:
    if output is not Format.TEXT:
        typer.echo(printed(applied, output))
        return
    where = "" if wish.namespace == "default" else f" -n {wish.namespace}"
    typer.echo(f"workspace/{wish.name} applied; follow it with: kaito status {wish.name}{where} --watch")
