"""Laws of writing: what is written reads back as the same, and as a person would have written it."""

from hypothesis import HealthCheck, given, settings

from kernlb.config import load, mistakes, write
from kernlb.config.values import Config
from tests.strategies import configs


@given(configs())
@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
def test_what_is_written_reads_back_as_the_same_configuration(config: Config) -> None:
    assert load(write(config), "kernlb.toml") == config


@given(configs())
@settings(max_examples=50, deadline=None, suppress_health_check=list(HealthCheck))
def test_the_generated_configurations_break_no_law(config: Config) -> None:
    assert mistakes(config) == ()
