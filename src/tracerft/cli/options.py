"""What the commands share: a parser whose mistakes are our one-line errors, with did-you-mean."""

import argparse
import re
from collections.abc import Sequence
from typing import Any, NoReturn

from jsonargparse import ArgumentParser, Namespace

from tracerft.errors import ArgumentError, did_you_mean


class Parser(ArgumentParser):
    """A jsonargparse parser that raises `ArgumentError` instead of exiting."""

    def __init__(self, command: str, description: str) -> None:
        super().__init__(prog=f"tracerft {command}", description=description, exit_on_error=False)

    def read(self, arguments: Sequence[str]) -> Namespace:
        """Parse, with every mistake as one line that names the option.

        Raises:
            ArgumentError: on any mistake.
        """
        self._refuse_unknown(arguments)
        try:
            parsed: Namespace = self.instantiate_classes(self.parse_args(list(arguments)))
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

    def _explain(self, message: str) -> str:
        text = " ".join(message.split())
        key = re.search(r"[Kk]ey '?([\w.]+)'? is not expected|does not accept (?:option|nested key) '?([\w.]+)'?", text)
        if key:
            name = key.group(1) or key.group(2)
            known = [o[2:] for o in self._known()]
            return f"unknown key {name!r}{did_you_mean(name, known)}; see {self.prog} --help"
        return re.sub(r"^Parser key ", "option ", text)


def plain(namespace: Namespace, *names: str) -> dict[str, Any]:
    """The named entries as a dict."""
    return {name: getattr(namespace, name) for name in names}
