"""The commands for a model that is trained: ask it, merge it, submit it."""

from collections.abc import Generator, Sequence
from dataclasses import replace
from typing import Any

from mathsft.command_line import CONFIG, Options
from mathsft.options import Option, options_of

Command = Generator[Options, Any, None]
_MODEL = '"tiny" (the default), a folder with a model or an adapter, or a hub name'


def chat(about: str, _: Sequence[str]) -> Command:
    """The command ``chat``."""
    from mathsft.generation.chat import chat as ask_in_terminal

    own = {"config": CONFIG, **options_of(ask_in_terminal, skip={"model"})}
    own["temperature"] = replace(own["temperature"], ruled=False)  # 0 is greedy
    place = {"model": Option(str, help=_MODEL)}
    ask_in_terminal(**(yield Options("chat", about, own, place))[1])


def merge(about: str, _: Sequence[str]) -> Command:
    """The command ``merge``."""
    from mathsft.models.tuned import merge_folder
    from mathsft.processes import say

    places = {
        "adapter": Option(str, help="an adapter's folder, or its name on the hub", required=True),
        "output_dir": Option(str, help="a new folder for the merged model", required=True),
    }
    own = {"config": CONFIG, **options_of(merge_folder, skip={*places})}
    folder = merge_folder(**(yield Options("merge", about, own, places))[1])
    say(f"{folder} holds the merged model and its tokenizer; next: mathsft chat {folder}")


def submit(about: str, _: Sequence[str]) -> Command:
    """The command ``submit``."""
    from mathsft.processes import say
    from mathsft.sharing.submit import submit as write_submission

    run = {"run": Option(str, help="the run's folder, with adapter or model in it", required=True)}
    own = {"config": CONFIG, **options_of(write_submission, skip={*run})}
    file = write_submission(**(yield Options("submit", about, own, run))[1])
    say(f"{file}: send this file to the leaderboard (docs/leaderboard.md says how)")
