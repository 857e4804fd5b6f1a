"""The tables of the optimizers, and what an entry of them is."""

import importlib
from dataclasses import dataclass, field

SOURCES, CASES = {}, {}  # by name
RULES = {}  # those that step each parameter by itself: `elements.py`


@dataclass(frozen=True)
class Source:
    path: str  # the class
    package: str  # the distribution it comes from; none of a paper, which `path` names then
    states: dict  # the source's state names -> ours; a pair for two in one tensor, None for what is no state here
    # Arguments that choose a code path and change no number, and values for those without a default.
    fixed: dict = field(default_factory=dict)
    step: tuple = ()  # options that are arguments of `step` there
    transcribed: tuple = ()  # types in which the source does not run

    def load(self):
        module, _, name = self.path.rpartition(".")
        return getattr(importlib.import_module(module), name)


def optimizer(name, source, cases):
    """Enters an optimizer with its rule. A case is a name and options; the one without options pins the defaults."""

    def enter(rule):
        assert name not in SOURCES, f"{name} is there already"
        SOURCES[name], CASES[name], RULES[name] = source, cases, rule
        return rule

    return enter
