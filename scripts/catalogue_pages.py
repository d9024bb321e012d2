"""The pages of the catalogue, made from its data: models, instance types, the table of estimates."""

from collections.abc import Iterable, Sequence
from pathlib import Path

from presets.advice import cheapest, offers, spare
from presets.cards import OLDEST, capability, outdated
from presets.catalog import Catalog, Gpu, InstanceType, Model, load_catalog
from presets.estimate import GIB, Load, gpus_needed
from presets.prices.price import Cloud, Price, bundled, known
from scripts.kaito_estimate import nodes

ROOT = Path(__file__).parent.parent
MODELS = ROOT / "docs/reference/models.md"
INSTANCE_TYPES = ROOT / "docs/reference/instance-types.md"
ESTIMATES = ROOT / "docs/reference/estimates.md"
ABOUT_MODELS = """# Models

Made from `presets/models/` by `make reference`. `kaito models NAME` tells more, `kaito plan --model NAME` what it takes
with your context and concurrency.

Gated models (*) are given to those who agreed to their terms: no image of them is published. The cheapest machine is
for one conversation of 2048 tokens, at the prices of {region} of {day}; — is unknown.

"""
OTHER_NAMES = """
## Other names

"""
ABOUT_SIZES = """# Instance types

Made from `presets/instance_types.yaml`, `presets/gpus.yaml` and `presets/prices/` by `make reference`. Names are
compared without regard to upper and lower case. Retired sizes are accepted and never suggested, and so are those with
cards on which our runtime does not run, for images that bring another torch: KAITO's and yours.

## Cards

"""
ABOUT_COMPARED = """A context of 2048 tokens, one conversation, as KAITO's estimator takes it. It plans for vLLM with
tensor parallelism and leaves 16 % of each card and 2.3 GiB aside, of a card whose size it takes from its name; here the
server takes what it needs, a layer after the other over the GPUs, of what a program finds on the card. KAITO therefore
asks for more where a model just fits.

"""
COMPARED = "## Compared with KAITO 0.12\n"
CASES = (
    ("phi-4-mini-instruct", "Standard_NC24ads_A100_v4"),
    ("phi-3-mini-128k-instruct", "Standard_NV36ads_A10_v5"),
    ("phi-4", "Standard_NC24ads_A100_v4"),
    ("phi-4", "Standard_NV36ads_A10_v5"),
    ("mistral-7b-instruct", "Standard_NV36ads_A10_v5"),
    ("mistral-7b-instruct", "Standard_NC4as_T4_v3"),
    ("llama-3.1-8b-instruct", "Standard_NV36ads_A10_v5"),
    ("llama-3.1-8b-instruct", "Standard_NC24ads_A100_v4"),
    ("llama-3.3-70b-instruct", "Standard_NC24ads_A100_v4"),
    ("llama-3.3-70b-instruct", "Standard_NC48ads_A100_v4"),
    ("llama-3.3-70b-instruct", "Standard_NC96ads_A100_v4"),
    ("llama-3.1-405b-instruct", "Standard_ND96isr_H200_v5"),
    ("qwen2.5-7b-instruct", "Standard_NV36ads_A10_v5"),
    ("qwen2.5-14b-instruct", "Standard_NV72ads_A10_v5"),
    ("qwen2.5-32b-instruct", "Standard_NC24ads_A100_v4"),
    ("qwen3-30b-a3b", "Standard_NC24ads_A100_v4"),
    ("gpt-oss-20b", "Standard_NV36ads_A10_v5"),
    ("gpt-oss-120b", "Standard_NC24ads_A100_v4"),
    ("gemma-3-27b-it", "Standard_NC24ads_A100_v4"),
    ("deepseek-r1", "Standard_ND96isr_H200_v5"),
    ("deepseek-r1", "Standard_ND96isr_H100_v5"),
)


def models_page() -> str:
    """All models, with what each needs and the cheapest machine that gives it."""
    catalog = load_catalog()
    table = bundled("azure")
    rows = [_model(model, catalog) for model in sorted(catalog.models.values(), key=lambda each: each.name)]
    heading = (
        "preset", "on the Hugging Face Hub", "license", "parameters (active)", "weights, GiB", "context", "attention",
        "tuning", "without GPU", "cheapest in Azure", "USD an hour",
    )  # fmt: skip
    listed = sorted(catalog.models.values(), key=lambda each: each.name)
    aliases = "".join(f"* `{alias}`: `{model.name}`\n" for model in listed for alias in model.aliases)
    return ABOUT_MODELS.format(region=table.region, day=table.as_of) + _table(heading, rows) + OTHER_NAMES + aliases


def instance_types_page() -> str:
    """All sizes by cloud, with their cards and prices."""
    catalog = load_catalog()
    cards = [
        (
            card.name, card.maker, f"{card.memory_gib}", f"{card.memory_mib / 1024:.1f}", f"{card.bandwidth_gb_s}",
            card.compute_capability, _yes(card.bfloat16), _yes(_runs(card)),
        )
        for card in catalog.gpus.values()
    ]  # fmt: skip
    heading = ("card", "maker", "GiB", "found by a program", "GB/s", "capability", "bfloat16", "our runtime")
    page = ABOUT_SIZES + _table(heading, cards)
    return page + _sizes("azure", "Azure", catalog) + _sizes("aws", "AWS", catalog)


def estimates_page() -> str:
    """The page: what people wrote above the heading, the comparison below it."""
    written, _, _ = ESTIMATES.read_text().partition(COMPARED)
    rows = [_compared(name, size) for name, size in CASES]
    heading = (
        "model",
        "size",
        "weights, GiB",
        "KAITO: machines",
        "here: GPUs",
        "here: machines",
        "longest context on one",
    )
    return written + COMPARED + "\n" + ABOUT_COMPARED + _table(heading, rows)


def _compared(name: str, size_name: str) -> tuple[str, ...]:
    catalog = load_catalog()
    model, size = catalog.model(name), catalog.instance_types[size_name]
    gpus = gpus_needed(model.weights, Load(context=2048), catalog.gpu_bytes(size))
    theirs = nodes(model, size)
    longest = spare(model, size, Load(context=2048), catalog=catalog).longest_context
    return (
        f"`{name}`",
        f"`{size_name}`",
        f"{model.file_bytes / GIB:.1f}",
        str(theirs) if theirs else "too small",
        str(gpus) if gpus else "too small",
        str(-(-gpus // size.gpus)) if gpus else "—",
        str(longest) if longest else "—",
    )


def _model(model: Model, catalog: Catalog) -> tuple[str, ...]:
    load = Load(context=min(2048, model.architecture.context))
    best = cheapest(offers(model, load, catalog=catalog, prices=known("azure", "eastus"), cloud="azure"))
    sparse = model.parameters > 1.5 * model.active_parameters
    return (
        f"`{model.name}`{' *' if model.gated else ''}",
        f"`{model.hub}`",
        model.license,
        _billions(model.parameters) + (f" ({_billions(model.active_parameters)})" if sparse else ""),
        f"{model.file_bytes / GIB:.1f}" + (f" ({model.quantisation})" if model.quantisation else ""),
        f"{model.architecture.context}" + (" (windows)" if model.architecture.window else ""),
        model.architecture.attention,
        _yes(model.tuning),
        _yes(model.cpu),
        f"`{best[0].size.name}`" if best else "none on one machine",
        f"{best[0].price.hourly:.2f}" if best and best[0].price else "—",
    )


def _sizes(cloud: Cloud, title: str, catalog: Catalog) -> str:
    table = bundled(cloud)
    sizes = [size for size in catalog.instance_types.values() if size.cloud == cloud]
    rows = [_size(size, table.price(size.name)) for size in sizes]
    heading = ("size", "GPUs", "GPU memory, GiB", "vCPU", "RAM, GiB", "local disk, GiB", "NVLink", "USD an hour", "")
    return f"\n## {title}\n\nPrices: {table.region}, {table.as_of}, pay as you go; — is unknown.\n\n" + _table(
        heading, rows
    )


def _size(size: InstanceType, price: Price | None) -> tuple[str, ...]:
    return (
        f"`{size.name}`",
        f"{size.gpus} × {size.gpu_model}" if size.gpus else "",
        str(size.gpu_memory_gib or ""),
        str(size.cpus),
        str(size.memory_gib),
        str(size.local_disk_gib or ""),
        _yes(size.nvlink) if size.gpus > 1 else "",
        f"{price.hourly:.2f}" if price else "—",
        "retired" if size.retired else size.note,
    )


def _table(heading: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = ["| " + " | ".join(heading) + " |", "|" + "---|" * len(heading)]
    lines += ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join(lines) + "\n"


def _billions(number: int) -> str:
    return f"{number / 1e9:.1f} B" if number >= 1e9 else f"{number / 1e6:.0f} M"


def _runs(card: Gpu) -> bool:
    """Whether torch of our images has code for it."""
    its = capability(card.compute_capability)
    return its is not None and not outdated(its, oldest=OLDEST)


def _yes(so: bool) -> str:
    return "yes" if so else "no"


def main() -> None:
    """Writes them."""
    MODELS.write_text(models_page())
    INSTANCE_TYPES.write_text(instance_types_page())
    ESTIMATES.write_text(estimates_page())


if __name__ == "__main__":
    main()
