"""An answer that is learnt has an end that is learnt: without one the model would go on and on."""

from typing import Any

QUESTION, ANSWER = "the question", "the answer"


def learnt(tokenizer: Any, model: Any) -> None:
    """Lets the chat template close a conversation with the end of text, where it closes it with nothing that stops.

    Many templates end a turn with a token of their own, at which the model stops; those are left alone. What has no
    template gets its end from trl.
    """
    template = tokenizer.chat_template
    if not isinstance(template, str) or tokenizer.eos_token is None:
        return
    turns = [{"role": "user", "content": QUESTION}, {"role": "assistant", "content": ANSWER}]
    *_, closed_by = tokenizer.apply_chat_template(turns, tokenize=False).rpartition(ANSWER)
    if not any(stop in closed_by for stop in _stops(tokenizer, model)):
        tokenizer.chat_template = template + "{% if not add_generation_prompt %}{{ eos_token }}{% endif %}"


def _stops(tokenizer: Any, model: Any) -> list[str]:
    """The tokens at which generation ends."""
    also = model.generation_config.eos_token_id
    ids = [tokenizer.eos_token_id, *(also if isinstance(also, list) else [also] if also is not None else [])]
    return [str(token) for token in tokenizer.convert_ids_to_tokens(ids) if token is not None]
