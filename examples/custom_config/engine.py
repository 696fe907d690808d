"""An engine as libraries have them: it reads its options with a parser of its own, and knows nothing of services."""

from __future__ import annotations

import argparse
from dataclasses import dataclass


@dataclass
class EngineArgs:
    """The options of the engine."""

    model: str
    max_tokens: int
    uppercase: bool


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("engine")
    parser.add_argument("--model", default="parrot")
    parser.add_argument("--max-tokens", type=int, default=16)
    parser.add_argument("--uppercase", action="store_true")
    return parser


class Engine:
    """Repeats as many words as it may."""

    def __init__(self, args: EngineArgs) -> None:
        self.args = args

    def generate(self, prompt: str) -> str:
        text = " ".join(prompt.split()[: self.args.max_tokens])
        return text.upper() if self.args.uppercase else text
