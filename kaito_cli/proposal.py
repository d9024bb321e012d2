"""What ``kaito plan`` has found out, as values: the memory, the machine, the alternatives, the objects."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from presets.advice import (
    Prices,
    ServingOffer,
    TuningOffer,
    cheapest,
    fastest,
    offers,
    serve_on,
    spare,
    tune_on,
    tuning_offers,
)
from presets.cards import OLDEST, Capability
from presets.catalog import Catalog, InstanceType, Model
from presets.estimate import GIB, Load, Memory
from presets.estimate_tuning import Method, Tuning
from presets.fit import problems, too_old
from presets.loading import Loading, loading
from presets.prices.price import Cloud, Price
from presets.target_modules import FAMILIES

if TYPE_CHECKING:
    from kaito_cli.plan import Question


KAITO = "kaito"
"""The source of model files that is KAITO's own image."""
ANY_CARD: Capability = (0, 0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """One machine in one line."""

    size: str
    price: Price | None
    tokens_per_second: float | None = None
    cpus: int = 0
    """The processors, where the model would run on those; 0 on GPUs."""

    def as_json(self) -> dict[str, Any]:
        """For programs."""
        speed = round(self.tokens_per_second, 1) if self.tokens_per_second else None
        told = {"instanceType": self.size, "price": _price(self.price), "tokensPerSecondAtMost": speed}
        return told | ({"cpus": self.cpus} if self.cpus else {})


@dataclass(frozen=True, slots=True, kw_only=True)
class Proposal:
    """The answer to one question. Memory in GiB on the fullest GPU, or of the process without one."""

    model: Model
    what: str
    size: InstanceType | None
    machines: int
    parts: dict[str, float]
    room: float
    problem: str
    cure: str
    """What to do about the problem; "" where there is none."""
    spare: str
    price: Price | None
    cheapest: Sequence[Choice]
    fastest: Sequence[Choice]
    objects: Sequence[str]
    """What the operator would create; nothing where it would say DoesNotFit."""
    loading: Loading | None = None
    """On a machine that is new; None where nothing is served."""

    @property
    def fits(self) -> bool:
        """Whether it does."""
        return self.size is not None and not self.problem

    def as_json(self) -> dict[str, Any]:
        """For programs."""
        return {
            "model": self.model.name,
            "asked": self.what,
            "instanceType": self.size.name if self.size else None,
            "machines": self.machines,
            "fits": self.fits,
            "problem": self.problem or None,
            "cure": self.cure or None,
            "memoryGiB": {**{name: round(value, 2) for name, value in self.parts.items()}, "room": round(self.room, 2)},
            "spare": self.spare or None,
            "loadingSeconds": _seconds(self.loading),
            "price": _price(self.price),
            "cheapest": [choice.as_json() for choice in self.cheapest],
            "fastest": [choice.as_json() for choice in self.fastest],
            "objects": list(self.objects),
        }


def propose(
    model: Model,
    asked: "Question",
    context: int,
    concurrency: int,
    *,
    catalog: Catalog,
    prices: Prices,
    cloud: Cloud,
) -> Proposal:
    """Serving: on the machine asked for, or else on the cheapest that holds it."""
    load = Load(context=context, concurrency=concurrency)
    able = offers(model, load, catalog=catalog, prices=prices, cloud=cloud)
    low, quick = cheapest(able), fastest(able)
    size = catalog.instance_type(asked.instance_type) if asked.instance_type else low[0].size if low else None
    what = f"{_conversations(concurrency)} of {context:,} tokens"
    if size is None:
        return _nowhere(model, what, cure=_smaller(model, load, catalog=catalog, prices=prices, cloud=cloud))
    oldest = _oldest(asked)
    serve = partial(serve_on, model, size, load, machines=asked.count, catalog=catalog, prices=prices)
    spread = asked.source == KAITO and model.distributed
    offer, of_kaito = serve(oldest=oldest, spread=spread), serve(oldest=ANY_CARD)
    old = too_old(size, catalog=catalog, oldest=oldest)
    more = spare(model, size, load, catalog=catalog, over=asked.count if spread else 1)
    refused = problems(model, size, asked.count, catalog=catalog)
    return Proposal(
        model=model,
        what=what,
        size=size,
        machines=asked.count,
        parts=_parts(offer.memory),
        room=offer.room / GIB,
        problem=offer.problem,
        cure=_newer_cards(low, of_kaito, published=bool(model.image_tag))
        if old
        else _cure(low, 0 if refused else more.longest_context)
        if offer.problem
        else "",
        spare=""
        if offer.problem
        else f"a context of {more.longest_context:,} tokens, or {_conversations(more.most_concurrent)} of {context:,}",
        price=offer.price,
        cheapest=[_choice(each) for each in low],
        fastest=[_choice(each) for each in quick],
        objects=[] if old or refused else _serving_objects(asked, size, spread=spread),
        loading=loading(model.file_bytes, disk_gib=model.disk_gib, cloud=size.cloud),
    )


def proposed_tuning(
    model: Model, asked: "Question", context: int, *, catalog: Catalog, prices: Prices, cloud: Cloud
) -> Proposal:
    """Tuning: with the defaults of the method, on the machine asked for or the cheapest that holds it."""
    method: Method = "lora" if asked.method == "lora" else "qlora"
    targets = model.target_modules or FAMILIES["llama"]
    wanted = Tuning(method=method, targets=targets, sequence=min(context, 2048), checkpointing=True)
    able = tuning_offers(model, wanted, catalog=catalog, prices=prices, cloud=cloud)
    low = cheapest(able)
    size = catalog.instance_type(asked.instance_type) if asked.instance_type else low[0].size if low else None
    what = f"{method} of rank {wanted.rank}, rows of {wanted.sequence} tokens, batch size {wanted.batch}"
    if size is None:
        told = "" if model.tuning else "; `kaito models --tuning` lists those that can be tuned"
        return _nowhere(model, what, cure=f"no machine of the table holds it{told}")
    oldest = _oldest(asked)
    offer = tune_on(model, size, wanted, catalog=catalog, prices=prices, oldest=oldest)
    refused = too_old(size, catalog=catalog, oldest=oldest) or problems(model, size, 1, catalog=catalog)
    return Proposal(
        model=model,
        what=what,
        size=size,
        machines=1,
        parts=_gib(
            weights=offer.memory.weights,
            adapter=offer.memory.adapter,
            activations=offer.memory.activations,
            logits=offer.memory.logits,
            overhead=offer.memory.overhead,
        ),
        room=offer.room / GIB,
        problem=offer.problem,
        cure=_tuning_cure(offer, low) if offer.problem else "",
        spare="",
        price=offer.price,
        cheapest=[_choice(each) for each in low],
        fastest=[],
        objects=_tuning_objects(asked, size) if model.tuning and not refused else [],
    )


def _conversations(number: int) -> str:
    return "1 conversation" if number == 1 else f"{number:,} conversations"


def _oldest(asked: "Question") -> Capability:
    """Of the cards that what runs has code for."""
    return ANY_CARD if asked.own_torch else OLDEST


def _nowhere(model: Model, what: str, *, cure: str) -> Proposal:
    return Proposal(
        model=model,
        what=what,
        size=None,
        machines=0,
        parts={},
        room=0,
        problem="it fits on no machine of the table",
        cure=cure,
        spare="",
        price=None,
        cheapest=[],
        fastest=[],
        objects=[],
    )


def _cure(low: Sequence[ServingOffer], longest: int) -> str:
    """The nearest thing that works: a shorter context on the same machine, or another machine."""
    cures = [f"a context of {longest:,} tokens fits"] if longest else []
    cures += [f"take {_with_price(low[0])}"] if low else []
    return ", or ".join(cures)


def _newer_cards(low: Sequence[ServingOffer], of_kaito: ServingOffer, *, published: bool) -> str:
    """Another machine; or KAITO's image, whose torch is older, if it fits apart from that."""
    cures = [f"take {_with_price(low[0])}"] if low else []
    if published and not of_kaito.problem:
        cures.append("serve KAITO's own image of it (annotation kaito.sh/model-files: kaito)")
    return ", or ".join(cures)


def _tuning_cure(offer: TuningOffer, low: Sequence[TuningOffer]) -> str:
    cures = [offer.lower] if offer.lower else []
    cures += [f"take {_with_price(low[0])}"] if low else []
    return ", or ".join(cures)


def _smaller(model: Model, load: Load, *, catalog: Catalog, prices: Prices, cloud: Cloud) -> str:
    """Where not even the largest machine does: the longest context that works anywhere."""
    shortest = Load(context=min(2048, model.architecture.context))
    able = offers(model, shortest, catalog=catalog, prices=prices, cloud=cloud)
    if not able:
        return "take a smaller model, see `kaito models`"
    reach = max((spare(model, each.size, load, catalog=catalog).longest_context, each.size.name) for each in able)
    return f"a context of {reach[0]:,} tokens fits on {reach[1]}" if reach[0] else f"it fits alone on {reach[1]}"


def _with_price(offer: ServingOffer | TuningOffer) -> str:
    return f"{offer.size.name}, {offer.price}" if offer.price else f"{offer.size.name}, price unknown"


def _choice(offer: ServingOffer | TuningOffer) -> Choice:
    speed = offer.tokens_per_second if isinstance(offer, ServingOffer) else None
    cpus = 0 if offer.size.gpus else offer.size.cpus
    return Choice(size=offer.size.name, price=offer.price, tokens_per_second=speed, cpus=cpus)


def _serving_objects(asked: "Question", size: InstanceType, *, spread: bool) -> list[str]:
    return [*_machines(asked, size), "StatefulSet" if spread else "Deployment", "Service (80, 29500)"]


def _tuning_objects(asked: "Question", size: InstanceType) -> list[str]:
    served = ["Deployment and Service once it is tuned"] if asked.serves else []
    return [*_machines(asked, size), "ConfigMap", "Job", *served]


def _machines(asked: "Question", size: InstanceType) -> list[str]:
    """None where the nodes are there already; ``size`` is then only what would do."""
    return [f"{asked.count} × Machine ({size.name})"] if asked.buys else []


def _parts(memory: Memory) -> dict[str, float]:
    return _gib(
        weights=memory.weights, kv_cache=memory.kv_cache, activations=memory.activations, overhead=memory.overhead
    )


def _gib(**parts: int) -> dict[str, float]:
    return {name.replace("_", " ").replace("kv", "KV"): value / GIB for name, value in parts.items()}


def _seconds(times: Loading | None) -> dict[str, int] | None:
    return {"pull": round(times.pull), "load": round(times.load)} if times else None


def _price(price: Price | None) -> dict[str, Any] | None:
    if price is None:
        return None
    return {
        "hourly": round(price.hourly, 4),
        "monthly": round(price.monthly, 2),
        "currency": price.currency,
        "region": price.region,
        "asOf": price.as_of.isoformat(),
        "spot": price.spot,
    }
