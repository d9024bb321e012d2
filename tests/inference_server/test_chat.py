"""What POST /chat means, without HTTP and without a model: prompts, limits, options, results."""

from typing import Any

import pytest

from inference_server import chat
from inference_server.engines.engine import Generation, ServedModel
from inference_server.errors import BadRequest
from inference_server.schemas import ChatRequest
from tests.support.scripted_engine import WordTokenizer

NEUTRAL = {"early_stopping": False, "num_beams": 1, "repetition_penalty": 1.0}
SAMPLING = {**NEUTRAL, "do_sample": True, "temperature": 1.0, "top_k": 10, "top_p": 1.0, "typical_p": 1.0}


def a_model(*, context: int = 512, **defaults: Any) -> ServedModel:
    return ServedModel("words", WordTokenizer(), context, defaults)


def prepared(
    model: ServedModel | None = None, *, pipeline: chat.Pipeline = "text-generation", **fields: Any
) -> chat.Turn:
    return chat.prepare(ChatRequest.model_validate(fields), model=model or a_model(), pipeline=pipeline)


def answered(model: ServedModel, *answers: str, **fields: Any) -> str:
    """The Result when the engine gives these answers."""
    turn = prepared(model, **fields)
    return chat.result(turn, [model.tokenizer.encode(answer) for answer in answers], model=model)


def test_a_prompt_alone_is_asked_with_kaitos_defaults() -> None:
    assert prepared(prompt="a b c") == chat.Turn(
        generation=Generation(prompt=(0, 1, 2), max_new_tokens=197, options=SAMPLING),
        echo="a b c",
        clean_up_spaces=False,
    )


def test_the_result_is_the_prompt_and_its_continuation() -> None:
    assert answered(a_model(), "c d", prompt="a b") == "a b c d"


def test_without_the_full_text_the_result_is_what_is_new_with_its_space() -> None:
    assert answered(a_model(), "c d", prompt="a b", return_full_text=False) == " c d"


def test_a_prefix_is_read_by_the_model_and_not_repeated() -> None:
    model = a_model()
    turn = prepared(model, prompt="b", prefix="a ")
    assert (turn.generation.prompt, turn.echo) == ((0, 1), "b")
    assert answered(a_model(), "c", prompt="b", prefix="a ") == "b c"


def test_several_sequences_are_one_text_each_with_its_prompt() -> None:
    assert answered(a_model(), "b", "c", prompt="a") == "a ba c"


def test_spaces_are_cleaned_up_if_asked() -> None:
    assert answered(a_model(), "c .", prompt="a b", clean_up_tokenization_spaces=True) == "a b c."


def test_messages_go_through_the_chat_template_and_the_reply_is_the_assistants_text() -> None:
    model = a_model()
    turn = prepared(model, pipeline="conversational", messages=[{"role": "user", "content": "why"}])
    assert model.tokenizer.decode(turn.generation.prompt) == "user: why assistant:"
    assert chat.result(turn, [model.tokenizer.encode("because")], model=model) == " because"


def test_a_prompt_to_a_conversational_model_is_a_users_message() -> None:
    conversation = prepared(pipeline="conversational", messages=[{"role": "user", "content": "why"}])
    assert prepared(pipeline="conversational", prompt="why") == conversation


def test_messages_are_a_conversation_for_a_text_generation_model_too() -> None:
    conversation = prepared(pipeline="conversational", messages=[{"role": "user", "content": "why"}])
    assert prepared(messages=[{"role": "user", "content": "why"}]) == conversation


def test_of_prompt_and_messages_the_pipelines_own_counts() -> None:
    both: dict[str, Any] = {"prompt": "a", "messages": [{"role": "user", "content": "why"}]}
    assert prepared(**both).echo == "a"
    assert prepared(pipeline="conversational", **both).echo == ""


LIMITS: dict[str, tuple[dict[str, Any], dict[str, Any], int]] = {
    "KAITO's 200 counts prompt and answer": ({}, {}, 190),
    "max_length counts prompt and answer": ({"max_length": 50}, {}, 40),
    "max_new_tokens counts the answer": ({"max_new_tokens": 50}, {}, 50),
    "max_new_tokens goes before max_length": ({"max_length": 20, "max_new_tokens": 50}, {}, 50),
    "the model's generation_config.json goes before KAITO's default": ({}, {"max_length": 100}, 90),
    "the client goes before the model": ({"max_length": 50}, {"max_new_tokens": 7}, 40),
    "the context is the end": ({"max_length": 10**30}, {}, 502),
    "null is as good as absent": ({"max_length": None}, {}, 190),
}


@pytest.mark.parametrize("case", LIMITS)
def test_how_many_tokens_may_be_added_to_a_prompt_of_ten(case: str) -> None:
    asked, defaults, room = LIMITS[case]
    turn = prepared(a_model(**defaults), prompt="x " * 10, generate_kwargs=asked)
    assert turn.generation.max_new_tokens == room


def test_what_the_models_generation_config_says_counts_where_the_client_is_silent() -> None:
    model = a_model(temperature=0.6, top_p=0.9, eos_token_id=[2, 7])
    assert prepared(model, prompt="a", generate_kwargs={"top_p": 0.5}).generation.options == {
        **SAMPLING,
        "temperature": 0.6,
        "top_p": 0.5,
        "eos_token_id": [2, 7],
    }


@pytest.mark.parametrize(
    "greedy", [{"do_sample": False}, {"temperature": 0}, {"temperature": -0.0}, {"temperature": 1e-300}]
)
def test_a_temperature_of_nothing_is_greedy_and_greedy_has_no_sampling_options(greedy: dict[str, Any]) -> None:
    options = prepared(prompt="a", generate_kwargs=greedy).generation.options
    assert options == {**NEUTRAL, "do_sample": False}


def test_a_long_prompt_is_cut_at_its_beginning_if_the_client_says_so() -> None:
    words = [f"w{number}" for number in range(40)]
    model = a_model(context=32)
    turn = prepared(
        model, prompt=" ".join(words), handle_long_generation="hole", generate_kwargs={"max_new_tokens": 12}
    )
    assert model.tokenizer.decode(turn.generation.prompt) == " ".join(words[-20:])
    assert turn.generation.max_new_tokens == 12


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "nothing": ({}, "Text generation parameter prompt required"),
    "an empty prompt": ({"prompt": ""}, "Text generation parameter prompt required"),
    "nothing for a conversation": ({"pipeline": "conversational"}, "Conversational parameter messages required"),
    "no messages": ({"pipeline": "conversational", "messages": []}, "Conversational parameter messages required"),
    "messages that the template refuses": (
        {"messages": [{"role": "assistant", "content": "a"}]},
        "the last message must be the user's",
    ),
    "a prompt as long as the context": (
        {"prompt": "x " * 512},
        "the prompt has 512 tokens; prompt and answer together may have 512: shorten it",
    ),
    "a prompt longer than KAITO's default length": (
        {"prompt": "x " * 350},
        "the prompt has 350 tokens, max_length is 200 for prompt and answer together: "
        "raise generate_kwargs.max_length, or set generate_kwargs.max_new_tokens",
    ),
    "a least that is more than the most": (
        {"prompt": "a b", "generate_kwargs": {"min_length": 13, "max_new_tokens": 10}},
        "generate_kwargs.min_length: at most 12 here, for that is how long the answer may get",
    ),
    "a token id out of the vocabulary": (
        {"prompt": "a", "generate_kwargs": {"eos_token_id": [1, 1000]}},
        "generate_kwargs.eos_token_id: the model's token ids end at 999",
    ),
}


@pytest.mark.badinput
@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_done_is_said(case: str) -> None:
    fields, detail = REFUSED[case]
    with pytest.raises(BadRequest) as refusal:
        prepared(**fields)
    assert refusal.value.detail == detail


def test_a_prompt_one_token_short_of_the_context_gets_one_token() -> None:
    turn = prepared(prompt="x " * 511, generate_kwargs={"max_new_tokens": 20})
    assert turn.generation.max_new_tokens == 1
