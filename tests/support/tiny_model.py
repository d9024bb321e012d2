"""A random llama of two layers over whole words, written as a model directory: real transformers in milliseconds.

A word is one token, with the space before it, as in byte-level tokenizers: "w1 w2" is "w1" and "Ġw2".
"""

from pathlib import Path

import torch
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

WORDS = [f"{space}w{number}" for space in ("", "Ġ") for number in range(30)]
SPECIAL = ["<unk>", "<s>", "</s>", "<user>", "<assistant>"]
CHAT_TEMPLATE = """\
{%- for message in messages -%}
  {%- if message['role'] not in ['user', 'assistant'] %}{{ raise_exception('only user and assistant') }}{% endif -%}
  {{- '<' + message['role'] + '> ' + message['content'] -}}
{%- endfor -%}
<assistant>"""
CONTEXT = 64


def write_tiny_model(directory: Path, *, hidden: int = 32, context: int = CONTEXT, tied: bool = True) -> Path:
    """Writes it; random, but the same each time. Tied, it likes to repeat its last word; untied, it wanders."""
    torch.manual_seed(7)
    vocabulary = {word: number for number, word in enumerate([*SPECIAL, *WORDS])}
    words = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(" ?[^ ]+"), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    words.decoder = decoders.ByteLevel()
    words.add_special_tokens([AddedToken(token, normalized=False) for token in SPECIAL])
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=words, unk_token="<unk>", bos_token="<s>", eos_token="</s>", pad_token="</s>"
    )
    tokenizer.chat_template = CHAT_TEMPLATE
    tokenizer.save_pretrained(directory)
    config = LlamaConfig(
        vocab_size=len(vocabulary),
        hidden_size=hidden,
        intermediate_size=2 * hidden,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=context,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=2,
        tie_word_embeddings=tied,
    )
    model = LlamaForCausalLM(config)
    with torch.no_grad():  # so that a special token is practically never the likeliest
        model.get_output_embeddings().weight[: len(SPECIAL)] = 0
    model.save_pretrained(directory)
    return directory
