"""The options that a command offers are those that it takes."""

import re

import pytest
from typer.testing import CliRunner

from batchlic.cli.app import app
from batchlic.errors import ExitCode

MIGRATE = ("migrate", "fleet.csv", "--from-sku", "SIMSec-IoT", "--to-sku", "TS-BUNDLE-KTO-SIMSEC-MRC")


def options_of(command: str) -> set[str]:
    shown = CliRunner().invoke(app, [command, "--help"])
    return set(re.findall(r"(?<![\w-])--[a-z-]+", shown.stdout))


def test_migrate_offers_two_skus_and_no_single_one() -> None:
    offered = options_of("migrate")
    assert {"--from-sku", "--to-sku"} <= offered
    assert "--sku" not in offered


@pytest.mark.parametrize("command", ["run", "assign", "unassign", "plan"])
def test_the_other_commands_offer_a_single_sku(command: str) -> None:
    assert "--sku" in options_of(command)


def test_migrate_offers_every_other_option_of_assign() -> None:
    assert options_of("assign") - {"--sku"} <= options_of("migrate")


def test_migrate_with_a_single_sku_is_a_usage_error() -> None:
    refused = CliRunner().invoke(app, [*MIGRATE, "--sku", "SIMSec-IoT"])
    assert refused.exit_code == ExitCode.USAGE
    assert "No such option: --sku" in refused.output
