"""What source files may not do, because it would let data run as code; read from their syntax trees."""

import ast
from collections.abc import Iterator
from pathlib import Path

PICKLES = ("pickle", "_pickle", "cPickle", "dill", "cloudpickle", "joblib", "shelve", "marshal")
RUNS_TEXT = (
    "eval", "exec", "compile", "__import__", "os.system", "os.popen", "runpy.run_path", "runpy.run_module",
    "importlib.util.spec_from_file_location",
)  # fmt: skip
LOOSE_YAML = tuple(f"yaml.{name}" for name in ("full_load", "full_load_all", "unsafe_load", "unsafe_load_all"))

# Every exception to a rule, by file and finding, with why it is safe.
JUSTIFIED = {
    ("models/import_worker.py", "torch.load"): "restricted unpickler, in a process with limits and a guard",
    ("models/import_pt.py", "subprocess.run"): "starts that process: this interpreter, a file of this package",
    ("studies/runner.py", "subprocess.run"): "asks git for the commit of this package; no argument comes from data",
    ("data/strict_yaml.py", "yaml.load"): "its loader derives from SafeLoader, which a test asks",
    ("__init__.py", "import_module of a variable"): "names from the table of public names in the same file",
    ("cli/main.py", "import_module of a variable"): "names that were looked up in COMMANDS first",
}


def findings(path: Path) -> Iterator[str]:
    """What is not allowed in a file, justified or not: a short name for each place."""
    tree = ast.parse(path.read_text())
    names = _imported(tree)
    for module in sorted(set(names.values())):
        if module.split(".")[0] in PICKLES:
            yield f"import of {module}"
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            yield from _of_call(node, _dotted(node.func, names))


def _of_call(node: ast.Call, called: str) -> Iterator[str]:
    keywords = {k.arg: k.value for k in node.keywords}
    if called in RUNS_TEXT or called in LOOSE_YAML or called in ("torch.load", "yaml.load", "yaml.load_all"):
        yield called
    if called.startswith("subprocess."):
        yield called
    if called == "torch.load" and not _is(keywords.get("weights_only"), True):
        yield "torch.load without weights_only=True"
    for keyword in ("allow_pickle", "trust_remote_code", "shell"):
        if keyword in keywords and not _is(keywords[keyword], False):
            yield f"{keyword} that is not False"
    if called == "importlib.import_module" and not (node.args and isinstance(node.args[0], ast.Constant)):
        yield "import_module of a variable"


def _imported(tree: ast.AST) -> dict[str, str]:
    """Local names and the dotted things they stand for."""
    names: dict[str, str] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                root = alias.name.split(".")[0]  # all that `import a.b` binds
                names[alias.asname or root] = alias.name if alias.asname else root
        elif isinstance(node, ast.ImportFrom):
            names |= {alias.asname or alias.name: f"{node.module}.{alias.name}" for alias in node.names}
    return names


def _dotted(node: ast.expr, names: dict[str, str]) -> str:
    """``torch.load`` for ``torch.load``, ``t.load`` after ``import torch as t``, ``load`` after ``from torch``."""
    if isinstance(node, ast.Attribute):
        return f"{_dotted(node.value, names)}.{node.attr}"
    if isinstance(node, ast.Name):
        return names.get(node.id, node.id)
    return "?"


def _is(node: ast.expr | None, value: bool) -> bool:
    return isinstance(node, ast.Constant) and node.value is value
