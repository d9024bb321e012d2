"""training_config.yaml: KAITO's defaults are read, and every mistake is told at once with what to write instead."""

from collections.abc import Callable

import pytest

from presets.training_config import TrainingConfigError, default_text, parse


def config(quantization: str = "load_in_4bit: true", arguments: str = "output_dir: results") -> str:
    return f"training_config:\n  QuantizationConfig:\n    {quantization}\n  TrainingArguments:\n    {arguments}\n"


@pytest.mark.parametrize(("method", "bits"), [("lora", 0), ("qlora", 4)])
def test_the_defaults_are_read(method: str, bits: int) -> None:
    read = parse(default_text(method), method=method)
    assert read.bits == bits
    assert read.sections["LoraConfig"] == {"r": 8, "lora_alpha": 8, "lora_dropout": 0.0}


def test_eight_bits_are_qlora_too() -> None:
    assert parse(config("load_in_8bit: true"), method="qlora").bits == 8


def test_an_empty_section_is_no_mistake() -> None:
    assert parse("training_config: {LoraConfig: }", method="lora").sections == {"LoraConfig": {}}


MISTAKES = {
    "no YAML": ("a: [", "qlora", "it is no YAML"),
    "a list": ("- a", "qlora", "write the sections under the key training_config"),
    "empty": ("", "qlora", "write the sections under the key training_config"),
    "another root": ("training: {}", "qlora", "write the sections under the key training_config"),
    "unknown section": ("training_config: {LoraConfg: {}}", "qlora", "did you mean LoraConfig?"),
    "unlike any section": ("training_config: {zzz: {}}", "qlora", "write one of ModelConfig"),
    "a section of text": ("training_config: {LoraConfig: r8}", "qlora", "LoraConfig: write keys and values"),
    "bits as text": (config('load_in_4bit: "yes"'), "qlora", "load_in_4bit: write true or false; "),
    "both": (config("{load_in_4bit: true, load_in_8bit: true}"), "qlora", "exclude each other"),
    "lora that quantises": (config(), "lora", "write false, or tuning.method qlora"),
    "qlora that does not": (config("load_in_4bit: false"), "qlora", "write load_in_4bit: true"),
    "output elsewhere": (config(arguments="output_dir: /data"), "qlora", "a directory below /mnt"),
    "output above": (config(arguments="output_dir: ../etc"), "qlora", "a directory below /mnt"),
    "output at the mount": (config(arguments="output_dir: /mnt"), "qlora", "a directory below /mnt"),
    "a key misspelt": (config("{load_in_4bit: true, bnb_4bit_quant_typ: nf4}"), "qlora", "mean bnb_4bit_quant_type?"),
    "a key like none": ("training_config: {DataCollator: {zzz: 1}}", "lora", "DataCollator.zzz: there is no such key$"),
    "a number in words": ("training_config: {LoraConfig: {r: eight}}", "lora", "LoraConfig.r: write a whole number"),
    "a fraction": ("training_config: {LoraConfig: {r: 1.5}}", "lora", "LoraConfig.r: write a whole number"),
    "truth as a number": ("training_config: {DataCollator: {mlm: 3}}", "lora", "DataCollator.mlm: write true or false"),
    "a number as truth": ("training_config: {LoraConfig: {r: true}}", "lora", "LoraConfig.r: write a whole number"),
    "a list as a number": (
        "training_config: {LoraConfig: {lora_dropout: [0]}}",
        "lora",
        "lora_dropout: write a number",
    ),
    "nothing": ("training_config: {LoraConfig: {r: }}", "lora", "LoraConfig.r: write a whole number"),
    "a date": ("training_config: {LoraConfig: {r: 2024-01-01}}", "lora", "LoraConfig.r: write a whole number"),
    "a wrong word": (config(arguments="lr_scheduler_type: cosin"), "qlora", "lr_scheduler_type: write .*cosine"),
    "a word like none": (config(arguments="lr_scheduler_type: zzz"), "qlora", "write one of constant, "),
    "an odd dtype": ("training_config: {ModelConfig: {torch_dtype: float7}}", "lora", "write one of float32, float16"),
    "no share": ("training_config: {DatasetConfig: {train_test_split: 0}}", "lora", "above 0 and at most 1"),
    "over the whole": ("training_config: {DatasetConfig: {train_test_split: 1.2}}", "lora", "above 0 and at most 1"),
    "output a number": (config(arguments="output_dir: 7"), "qlora", "a directory below /mnt"),
}


MEANT = {
    "learning_rate: 2e-4": {"learning_rate": 0.0002},  # text to YAML 1.1
    "learning_rate: '0.01'": {"learning_rate": 0.01},
    "max_steps: '20'": {"max_steps": 20},
    "num_train_epochs: 3": {"num_train_epochs": 3},
    "packing: 'True'": {"packing": True},
    "save_strategy: no": {"save_strategy": "no"},  # false to YAML 1.1
    "run_name: 2e-4": {"run_name": "2e-4"},
    "eval_steps: ": {"eval_steps": None},
    "evaluation_strategy: steps": {"eval_strategy": "steps"},
    "max_seq_length: 512": {"max_length": 512},
}


@pytest.mark.parametrize("written", MEANT)
def test_values_are_taken_as_they_are_meant(written: str) -> None:
    assert parse(f"training_config: {{TrainingArguments: {{{written}}}}}", method="lora").sections == {
        "TrainingArguments": MEANT[written]
    }


@pytest.mark.badinput
@pytest.mark.parametrize("case", MISTAKES)
def test_a_mistake_says_what_to_write(case: str) -> None:
    text, method, told = MISTAKES[case]
    with pytest.raises(TrainingConfigError, match=told.replace("?", r"\?")):
        parse(text, method=method)


def test_all_mistakes_are_told_at_once(count_cases: Callable[[str, int], None]) -> None:
    with pytest.raises(TrainingConfigError) as refused:
        parse(config("load_in_4bit: 1", "output_dir: /etc"), method="qlora")
    assert len(refused.value.problems) == 3
    count_cases("training configuration", len(MISTAKES))
