"""The command line: KAITO's flags as KAITO writes them, ours, and what is wrong with others."""

import pytest

from inference_server.engines.choice import NoSuchEngine, choose
from inference_server.engines.native_engine import NativeEngine
from inference_server.engines.transformers_engine import TransformersEngine
from inference_server.settings import WITHOUT_EFFECT, Settings, parse


def test_no_flags_serve_what_the_preset_image_holds() -> None:
    assert parse([]) == (Settings(), [])
    assert (Settings().pretrained_model_name_or_path, Settings().port) == ("/workspace/weights", 5000)


def test_no_variable_of_the_environment_is_a_flag(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in Settings.model_fields:
        monkeypatch.setenv(name, "7")
        monkeypatch.setenv(name.upper(), "7")
    assert parse([]) == (Settings(), [])


@pytest.mark.parametrize(
    "written",
    [
        ["--torch_dtype=bfloat16", "--pipeline=conversational", "--trust_remote_code"],
        ["--torch_dtype", "bfloat16", "--pipeline", "conversational", "--trust_remote_code", "True"],
        ["--torch-dtype=bfloat16", "--pipeline=conversational", "--trust-remote-code=true"],
    ],
)
def test_the_ways_in_which_flags_are_written_mean_the_same(written: list[str]) -> None:
    wanted = Settings(torch_dtype="bfloat16", pipeline="conversational", trust_remote_code=True)
    assert parse(written) == (wanted, [])


def test_a_switch_can_be_switched_off() -> None:
    assert parse(["--allow_remote_files=False"])[0].allow_remote_files is False


def test_flags_nobody_knows_and_flags_without_effect_are_named() -> None:
    written = ["--combination_type=svd", "--gpu_ids=all", "--num_machines", "1", "--resume_download", "--port=80"]
    assert parse(written) == (
        Settings(port=80),
        ["--combination_type", "--resume_download", "--gpu_ids=all", "--num_machines"],
    )


def test_every_flag_of_kaito_0_3_is_accepted() -> None:
    kaito = ["pipeline=text-generation", "pretrained_model_name_or_path=/m", "combination_type=svd", "state_dict=x"]
    kaito += ["cache_dir=/c", "proxies=x", "from_tf", "force_download", "resume_download", "output_loading_info"]
    kaito += ["allow_remote_files", "revision=main", "trust_remote_code", "load_in_4bit", "load_in_8bit"]
    kaito += ["torch_dtype=auto", "device_map=auto"]
    _, named = parse([f"--{flag}" for flag in kaito])
    assert named == [f"--{name}" for name in WITHOUT_EFFECT]


def test_every_setting_is_described() -> None:
    assert [name for name, field in Settings.model_fields.items() if not field.description] == []


@pytest.mark.badinput
@pytest.mark.parametrize(
    ("written", "complaint"),
    [
        ("--pipeline=text2text", "--pipeline: Input should be 'text-generation' or 'conversational'"),
        ("--torch_dtype=int3", "--torch_dtype: Input should be 'auto'"),
        ("--port=0", "--port: Input should be greater than or equal to 1"),
        ("--port=http", "--port: Input should be a valid integer"),
        ("--trust_remote_code=maybe", "--trust_remote_code: Input should be a valid boolean"),
        (
            "--pretrained_model_name_or_path=",
            "--pretrained_model_name_or_path: String should have at least 1 character",
        ),
    ],
)
def test_a_bad_value_ends_the_process_with_its_flag(
    written: str, complaint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        parse([written])
    assert ended.value.code == 2
    assert complaint in capsys.readouterr().err


@pytest.mark.parametrize("engine", ["auto", "transformers"])
def test_the_choice_of_an_engine_is_one_line(engine: str) -> None:
    lines: list[str] = []
    chosen = choose(Settings.model_validate({"engine": engine}), say=lines.append)
    chosen.stop()
    assert isinstance(chosen, TransformersEngine)
    assert len(lines) == 1
    assert lines[0].startswith("engine transformers (")


def test_the_native_engine_is_chosen_when_asked_for() -> None:
    lines: list[str] = []
    assert isinstance(choose(Settings(engine="native"), say=lines.append), NativeEngine)
    assert lines == ["engine native (asked for), requests batched continuously"]


def test_an_engine_that_is_not_there_is_said_so() -> None:
    lines: list[str] = []
    with pytest.raises(NoSuchEngine, match="vLLM is not installed here; use auto, native or transformers"):
        choose(Settings(engine="vllm"), say=lines.append)
