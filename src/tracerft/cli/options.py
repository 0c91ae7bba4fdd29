"""What the commands share: a parser whose mistakes are our one-line errors, with did-you-mean."""

import argparse
import inspect
import os
import re
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import NoReturn

import yaml
from jsonargparse import ArgumentParser, DefaultHelpFormatter, Namespace

from tracerft.errors import ArgumentError, did_you_mean

MAX_DEPTH = 20  # of a configuration; its options lie two deep


class HelpFormatter(DefaultHelpFormatter):
    """Help of one line an option where it fits: what it is and its default."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=44, width=116)  # type: ignore[no-untyped-call]

    def _get_help_string(self, action: argparse.Action) -> str:
        text = (action.help or "").rstrip(".")
        if any(action.default is d for d in (None, False, argparse.SUPPRESS)) or not action.option_strings:
            return text
        return f"{text} (default: %(default)s)"


class Parser(ArgumentParser):
    """A jsonargparse parser that raises `ArgumentError` instead of exiting.

    Args:
        command: its name, without ``tracerft``.
        description: what it does, in a sentence or two.
        usage: how it is mostly called, if listing every option would hide that.
    """

    def __init__(self, command: str, description: str, usage: str | None = None) -> None:
        super().__init__(
            prog=f"tracerft {command}",
            description=description,
            usage=usage,
            formatter_class=HelpFormatter,
            exit_on_error=False,
        )

    def read(self, arguments: Sequence[str]) -> Namespace:
        """Parse, with every mistake as one line that names the option.

        Raises:
            ArgumentError: on any mistake.
        """
        self._refuse_unknown(arguments)
        for before, argument in pairwise(["", *arguments]):
            config = "--config" in (before, argument.partition("=")[0])
            refuse_traps(Path(argument.partition("=")[2] if argument.startswith("--") else argument), always=config)
        try:
            values = self.parse_args(list(arguments))
            self._refuse_empty_groups(values)
            parsed: Namespace = self.instantiate(values)
            return parsed
        except (argparse.ArgumentError, SystemExit) as error:
            if isinstance(error, SystemExit):  # --help and --print_config
                raise
            raise ArgumentError(self._explain(str(error))) from error

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Raise instead of printing usage and exiting."""
        raise ArgumentError(self._explain(message)) from ex

    def _known(self) -> list[str]:
        return sorted({o for action in self._actions for o in action.option_strings if o.startswith("--")})

    def _refuse_unknown(self, arguments: Sequence[str]) -> None:
        known = self._known()
        for argument in arguments:
            option = argument.split("=", 1)[0]
            if option.startswith("--") and option not in known and option.rstrip("+") not in known:
                raise ArgumentError(f"unknown option {option}{did_you_mean(option, known)}; see {self.prog} --help")

    def _refuse_empty_groups(self, values: Namespace) -> None:
        """A file's ``train:`` with nothing below it, which is not the same as no such line."""
        for group in sorted({name[2:].partition(".")[0] for name in self._known() if "." in name}):
            if values.get(group, ()) is None:
                raise ArgumentError(f"option {group!r}: expected options below it; got nothing; remove the line")

    def _explain(self, message: str) -> str:
        text = " ".join(message.split())
        group = re.search(r"Group '([\w.]+)' does not accept option '([\w.]+)'", text)
        key = re.search(r"(?:[Kk]ey|Option) '?([\w.]+)'? is not (?:expected|accepted)|nested key '?([\w.]+)'?", text)
        if group or key:
            name = ".".join(group.groups()) if group else key.group(1) or key.group(2)  # type: ignore[union-attr]
            if group and group.group(2).startswith(f"{group.group(1)}."):
                name = group.group(2)
            known = [o[2:] for o in self._known()]
            return f"unknown key {name!r}{did_you_mean(name, known)}; see {self.prog} --help"
        if "class_path" in text:
            return f"class_path is not accepted, as no option names a class; see {self.prog} --help"
        text = re.sub(r"^Parser key ", "option ", text)
        text = re.sub(r"Expected an? <class '(\w+)'>\. Got value: ", r"expected \1; got ", text)
        return text if len(text) <= 400 else f"{text[:400]} ..."


def described(kind: type) -> dict[str, str]:
    """What the docstring of a dataclass says of each of its fields, to say the same on the command line."""
    text = inspect.cleandoc(kind.__doc__ or "").partition("Args:\n")[2]
    found = re.findall(r"^ {4}(\w+): (.*(?:\n {5,}.*)*)", text, re.MULTILINE)
    return {name: " ".join(words.split()) for name, words in found}


def refuse_traps(path: Path, *, always: bool = False) -> None:
    """Refuse a YAML file with aliases or many levels: nothing here needs them, and both can take hours to read.

    Args:
        path: a file, or any other argument.
        always: also without the ending of a YAML file.

    Raises:
        ArgumentError: if ``path`` is a YAML file with an alias or deeper than `MAX_DEPTH`, or no UTF-8 text.
    """
    if not (always or path.suffix in (".yaml", ".yml")) or not os.path.isfile(path):
        return
    depth = 0
    try:
        for event in yaml.parse(path.read_text(), Loader=yaml.SafeLoader):
            if isinstance(event, yaml.AliasEvent):
                raise ArgumentError(f"{path}: YAML aliases (*name) are not accepted; write the value out")
            depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
            if depth > MAX_DEPTH:
                raise ArgumentError(f"{path}: nested deeper than {MAX_DEPTH} levels; no option is; correct the file")
    except UnicodeDecodeError as error:
        raise ArgumentError(f"{path} is no UTF-8 text; give a YAML file") from error
    except (OSError, yaml.YAMLError):
        return  # the parser says what is wrong
