"""Which machine is proposed: what is offered fits, the cheapest is the cheapest, the fastest has the most bandwidth."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from presets.advice import cheapest, fastest, offers, serve_on, spare, tune_on, tuning_offers
from presets.catalog import InstanceType, load_catalog
from presets.estimate import Load
from presets.estimate_tuning import Tuning
from presets.fit import problems, smallest
from presets.prices.price import known

CATALOG = load_catalog()
PRICES = known("azure", "eastus")
MODELS = sorted(CATALOG.models)
SIZES = sorted(CATALOG.instance_types)


def old(size: InstanceType) -> bool:
    """Whether its cards came before Turing: those of the catalogue, by name."""
    return size.gpu_model in ("K80", "M60", "P40", "P100", "V100", "V100-32")


@pytest.mark.properties
@given(name=st.sampled_from(MODELS), context=st.integers(1, 50_000), cloud=st.sampled_from(["azure", "aws"]))
def test_what_is_offered_fits_is_sold_and_the_operator_takes_it(name: str, context: int, cloud: str) -> None:
    model, load = CATALOG.models[name], Load(context=context)
    for offer in offers(model, load, catalog=CATALOG, prices=PRICES, cloud=cloud):
        assert offer.memory.total <= offer.room
        assert not offer.size.retired
        assert offer.size.cloud == cloud
        assert problems(model, offer.size, 1, catalog=CATALOG) == ()
        assert not old(offer.size)


def test_the_cheapest_come_first_and_the_unknown_last() -> None:
    made = offers(CATALOG.model("phi-4"), Load(context=2048), catalog=CATALOG, prices=PRICES, cloud="azure")
    low = cheapest(made)
    hourly = [offer.price.hourly for offer in low if offer.price]
    assert len(low) == len(hourly) == 3
    assert hourly == sorted(hourly)
    assert hourly[0] == min(offer.price.hourly for offer in made if offer.price)
    assert cheapest([offer for offer in made if not offer.price])[0].price is None


def test_without_prices_the_smallest_come_first() -> None:
    made = offers(CATALOG.model("phi-4"), Load(context=2048), catalog=CATALOG, prices={}, cloud="azure")
    assert [offer.size.gpu_memory_gib for offer in cheapest(made)] == [48, 64, 80]


def test_one_conversation_is_as_fast_as_the_memory_of_one_card() -> None:
    model, size = CATALOG.model("llama-3.1-8b-instruct"), CATALOG.instance_types["Standard_NC24ads_A100_v4"]
    offer = serve_on(model, size, Load(context=1), machines=1, catalog=CATALOG, prices=PRICES)
    assert offer.tokens_per_second == pytest.approx(1935e9 / (7.5e9 * 2), rel=0.01)
    made = offers(model, Load(context=1), catalog=CATALOG, prices=PRICES, cloud="azure")
    speeds = [each.tokens_per_second for each in made if each.tokens_per_second]
    assert fastest(made)[0].tokens_per_second == max(speeds)


def test_several_machines_cost_that_much_more() -> None:
    model, size = CATALOG.model("phi-4"), CATALOG.instance_types["Standard_NC24ads_A100_v4"]
    one, three = (serve_on(model, size, Load(context=9), machines=n, catalog=CATALOG, prices=PRICES) for n in (1, 3))
    assert one.price
    assert three.price
    assert three.price.hourly == pytest.approx(3 * one.price.hourly)


def test_why_not_is_said() -> None:
    model, size = CATALOG.model("llama-3.1-8b-instruct"), CATALOG.instance_types["Standard_NV36ads_A10_v5"]
    offer = serve_on(model, size, Load(context=131072), machines=1, catalog=CATALOG, prices=PRICES)
    assert offer.problem == "it needs 49.1 GiB and finds 22.5 GiB, most of it for the KV cache"
    longer = serve_on(model, size, Load(context=131073), machines=1, catalog=CATALOG, prices=PRICES)
    assert longer.problem == "llama-3.1-8b-instruct has a context of 131072 tokens at most"
    none = serve_on(
        model, CATALOG.instance_types["Standard_D2s_v5"], Load(context=1), machines=1, catalog=CATALOG, prices={}
    )
    assert none.problem == "llama-3.1-8b-instruct needs 1 GPU, Standard_D2s_v5 has none"


@pytest.mark.properties
@given(name=st.sampled_from(MODELS), size=st.sampled_from(SIZES), load=st.builds(Load, context=st.integers(1, 20_000)))
def test_what_is_said_to_be_spare_is(name: str, size: str, load: Load) -> None:
    model, machine = CATALOG.models[name], CATALOG.instance_types[size]
    more = spare(model, machine, load, catalog=CATALOG)
    if more.longest_context:
        longest = Load(context=more.longest_context, concurrency=load.concurrency)
        offer = serve_on(model, machine, longest, machines=1, catalog=CATALOG, prices=PRICES)
        assert offer.memory.total <= offer.room
    assert (more.most_concurrent > 0) == (
        serve_on(model, machine, load, machines=1, catalog=CATALOG, prices=PRICES).memory.total
        <= serve_on(model, machine, load, machines=1, catalog=CATALOG, prices=PRICES).room
    )


def test_a_tuning_that_does_not_fit_says_what_to_lower() -> None:
    model, size = CATALOG.model("phi-3-mini-128k-instruct"), CATALOG.instance_types["Standard_NC4as_T4_v3"]
    asked = Tuning(method="lora", targets=model.target_modules, batch=8, sequence=4096)
    offer = tune_on(model, size, asked, catalog=CATALOG, prices=PRICES)
    assert offer.problem.startswith("it needs")
    assert offer.lower.startswith("switch gradient checkpointing on")


def test_a_model_that_cannot_be_tuned_is_offered_nowhere() -> None:
    model = CATALOG.model("falcon-7b-instruct")
    asked = Tuning(method="qlora", targets=("query_key_value",))
    assert tuning_offers(model, asked, catalog=CATALOG, prices=PRICES, cloud="azure") == ()


@pytest.mark.money
@pytest.mark.parametrize("cloud", ["azure", "aws"])
def test_no_old_card_is_ever_chosen(cloud: str) -> None:
    """Of AWS's sizes those with V100 are sold still, and the cheapest of their memory."""
    asked, sold = Tuning(method="qlora", targets=("q_proj",)), 0
    for model in CATALOG.models.values():
        serve = offers(model, Load(context=1024), catalog=CATALOG, prices={}, cloud=cloud)
        tune = tuning_offers(model, asked, catalog=CATALOG, prices={}, cloud=cloud)
        suggested = [CATALOG.instance_types[name] for name in smallest(model, 1, catalog=CATALOG, cloud=cloud)]
        chosen = [*suggested, *(offer.size for offer in serve), *(offer.size for offer in tune)]
        assert not [size.name for size in chosen if old(size)]
        sold += len(chosen)
    assert sold > len(CATALOG.models)


def test_an_old_card_is_judged_by_the_torch_that_would_run() -> None:
    model, size = CATALOG.model("falcon-7b"), CATALOG.instance_types["Standard_NC12s_v3"]
    refused, taken = (
        serve_on(model, size, Load(context=1024), machines=1, catalog=CATALOG, prices={}, oldest=oldest).problem
        for oldest in ((7, 5), (7, 0))
    )
    told = "the V100 cards of Standard_NC12s_v3 are of compute capability 7.0, and the runtime is built for"
    assert (refused, taken) == (f"{told} 7.5 and newer", "")
