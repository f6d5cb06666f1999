"""The command line, for tests that train with a recipe."""

from mathsft import cli

TINY = ["--config", "tiny", "--model.quantize", "false"]
SHORT = [*TINY, "--train.limit", "40", "--test.limit", "8"]


def mathsft_(*arguments: object) -> None:
    cli.main([str(argument) for argument in arguments])
