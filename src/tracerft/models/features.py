"""Inner features of an image tower: which layers, and how to read them while the model runs."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from tracerft.errors import ArgumentError, did_you_mean
from tracerft.models.encoder import in_image_tower

CHAINS = (
    "visual.transformer.resblocks",  # open_clip's ViT, CoCa
    "visual.trunk.blocks",  # timm's ViT in open_clip; the stages of mini's EfficientNet
    "visual.trunk.stages",  # timm's ConvNeXt in open_clip
    "model.vision_model.encoder.layers",  # transformers
    "visual.blocks",  # tiny
)
STAGES = ("visual", "visual.trunk")  # have layer1 to layer4: ResNets of open_clip and timm
CLASS_TOKENS = ("class_embedding", "cls_token", "class_token")


def feature_layers(model: nn.Module, count: int = 5) -> tuple[str, ...]:
    """Names of evenly spaced blocks of the image tower, the last one included; stages where it is convolutional.

    Args:
        model: a dual encoder.
        count: how many, >= 1; all of them where there are fewer. Of n blocks, number n k / count, rounded, for
            k = 1 to count: 6 of a ViT-B's 12 are the blocks 2, 4, ..., 12.

    Raises:
        ArgumentError: if `count` is below 1, or the model is of another build.
    """
    if count < 1:
        raise ArgumentError(f"`count` must be at least 1; got {count}")
    modules = dict(model.named_modules())
    for chain in CHAINS:
        if chain in modules:
            return _spaced([f"{chain}.{name}" for name, _ in modules[chain].named_children()], count)
    for tower in STAGES:
        stages = [f"{tower}.layer{number}" for number in range(1, 5)]
        if all(stage in modules for stage in stages):
            return _spaced(stages, count)
    raise ArgumentError(
        f"the blocks of the image tower of {type(model).__name__} are not known; expected one of {', '.join(CHAINS)} "
        "or visual.layer1 to 4; use a method without inner features"
    )


def _spaced(names: list[str], count: int) -> tuple[str, ...]:
    count = min(count, len(names))
    return tuple(names[round(len(names) * k / count) - 1] for k in range(1, count + 1))


@contextmanager
def capture(model: nn.Module, names: Sequence[str]) -> Iterator[dict[str, Tensor]]:
    """Keep the pooled outputs of some modules of the image tower while the model runs inside the block.

    Args:
        model: a dual encoder.
        names: of its modules, as `feature_layers` gives them.

    Yields:
        A dictionary that a forward pass fills with ``(N, width)`` by name, and a further one fills anew: the class
        token (the mean over tokens in a tower without one), or the mean over a feature map. With gradient, unless
        the forward pass is without. The hooks go with the block; the dictionary stays.

    Raises:
        ArgumentError: if a module does not exist, or its output is no tensor of tokens or feature maps.

    Example:
        ``with capture(model, feature_layers(model)) as seen: model.encode_image(images)``
    """
    modules = dict(model.named_modules())
    missing = [name for name in names if name not in modules]
    if missing:
        raise ArgumentError(
            f"`names` must be modules of the model; got {missing[0]!r}{did_you_mean(missing[0], list(modules))}; see "
            "feature_layers(model)"
        )
    class_token = _has_class_token(model)
    seen: dict[str, Tensor] = {}
    hooks = [modules[name].register_forward_hook(_keep(seen, name, class_token)) for name in names]
    try:
        yield seen
    finally:
        for hook in hooks:
            hook.remove()


def _keep(seen: dict[str, Tensor], name: str, class_token: bool) -> Callable[[nn.Module, Any, Any], None]:
    def hook(_module: nn.Module, _inputs: Any, output: Any) -> None:
        seen[name] = _pooled(output, name, class_token)

    return hook


def _pooled(output: Any, name: str, class_token: bool) -> Tensor:
    tensor = output[0] if isinstance(output, (tuple, list)) else output  # transformers: states, then attention
    if not torch.is_tensor(tensor) or tensor.ndim not in (2, 3, 4):
        shape = tuple(tensor.shape) if torch.is_tensor(tensor) else type(tensor).__name__
        raise ArgumentError(f"{name!r} must give (N, L, W) tokens or (N, W, H, W') maps; got {shape}; choose a block")
    if tensor.ndim == 3:
        return tensor[:, 0] if class_token else tensor.mean(dim=1)
    return tensor.mean(dim=(2, 3)) if tensor.ndim == 4 else tensor


def _has_class_token(model: nn.Module) -> bool:
    """Whether token 0 of the image tower is a class token: SigLIP's towers have none."""
    of_image = in_image_tower(model)
    return any(of_image(name) and name.rpartition(".")[2] in CLASS_TOKENS for name, _ in model.named_parameters())
