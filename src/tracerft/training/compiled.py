"""What a run compiles: the towers of the student and of what it is compared with."""

from torch import nn

from tracerft.errors import ArgumentError
from tracerft.methods import Method
from tracerft.models.compiling import compile_towers


def compile_run(model: nn.Module, method: Method) -> None:
    """Compile a student and its references in place, once the method has begun.

    Raises:
        ArgumentError: if the method reads inner features, or a tower cannot be compiled.
    """
    if getattr(method, "layers", ()):
        raise ArgumentError(
            f"`train.compile` must be false for `method` {method.name}, which reads inner features by hooks"
        )
    references = [getattr(m, "averaged", m) for m in method.references().values()]  # of a teacher, its model
    for each in dict.fromkeys([model, *references]):
        compile_towers(each)
