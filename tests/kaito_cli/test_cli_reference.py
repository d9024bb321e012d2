"""The page on the command line is the command line's own."""

from kaito_cli.__main__ import COMMANDS
from scripts import cli_reference


def test_the_page_is_up_to_date() -> None:
    assert cli_reference.PAGE.read_text() == cli_reference.page(), "make reference"


def test_every_command_has_a_section_with_a_sentence_and_every_option_its_meaning() -> None:
    page = cli_reference.page()
    assert {command.split()[1] for command in cli_reference.commands()} == set(COMMANDS)
    for command in cli_reference.commands():
        _, _, section = page.partition(f"## {command}\n\n")
        sentence, _, rest = section.partition("\n")
        assert sentence.endswith("."), command
        for row in (row for row in rest.partition("\n## ")[0].splitlines() if row.startswith(("| `-", "| `["))):
            assert row.rpartition(" | ")[2].strip(" |"), f"{command}: {row} says nothing"


def test_commands_that_speak_to_a_cluster_can_be_told_which() -> None:
    for command in ("kaito status", "kaito deploy", "kaito chat", "kaito logs", "kaito doctor"):
        assert {"-n", "--namespace", "--context", "--kubeconfig"} <= cli_reference.options(command), command


def test_of_the_environment_only_variables_of_kaitos_own_name_are_options() -> None:
    assert set(cli_reference.variables()) == {"KAITO_CLUSTER"}
