"""Low-rank adapters by peft (Hu et al., 2022), checked before they are trusted, and the weights they amount to.

Legend: W0 a frozen weight, A ``(r, in)`` and B ``(out, r)`` its factors; the effective weight is W0 + alpha/r B A.
"""

import copy
import re
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from tracerft.errors import ArgumentError, MissingExtraError, StateError, one_of
from tracerft.models.encoder import in_image_tower
from tracerft.models.probe import check_adapters, example_input

ADAPTER = "default"  # peft's name of the first adapter
_ATTENTION = (
    r"resblocks\.\d+\.attn",  # open_clip, fused: peft cannot adapt out_proj by itself
    r"blocks\.\d+\.attn\.(qkv|proj)",  # timm
    r"encoder\.layers\.\d+\.self_attn\.(q_proj|k_proj|v_proj|out_proj)",  # transformers, without the pooling head
    r"encoder\.layer\.\d+\.attention\.(self\.(query|key|value)|output\.dense)",  # BERT
    r"blocks\.\d+\.(qkv|out)",  # tiny
)
_MLP = (
    r"resblocks\.\d+\.mlp\.(c_fc|c_proj)",
    r"blocks\.\d+\.mlp\.(fc1|fc2|[02])",
    r"encoder\.layers\.\d+\.mlp\.(fc1|fc2)",
    r"encoder\.layer\.\d+\.(intermediate|output)\.dense",
)
# CoCa's text_decoder is left out below: it writes captions and has no part in the embeddings.
PRESETS = {"attention-mlp": _ATTENTION + _MLP, "attention": _ATTENTION, "mlp": _MLP}


def add_lora(
    model: nn.Module,
    preset: str = "attention-mlp",
    *,
    rank: int = 8,
    alpha: float = 16.0,
    dropout: float = 0.0,
    towers: str = "both",
    targets: str | None = None,
    train_logit_scale: bool = False,
    example: tuple[Tensor, Tensor] | None = None,
) -> nn.Module:
    """Freeze a model and put adapters into it, in place; at first they change nothing.

    The surface of the model stays. A forward and backward pass with random adapters then shows that each of them
    works and that merging is the same; if not, nothing is trained in vain.

    Args:
        model: a dual encoder of any family.
        preset: ``attention-mlp``, ``attention`` or ``mlp``: the layers of the transformer blocks that are adapted.
        rank: r, at least 1.
        alpha: the adapters are scaled by alpha / r.
        dropout: in [0, 1), before A in linear layers; open_clip's fused attention has none.
        towers: ``both``, ``image`` or ``text``.
        targets: a regular expression of module names, instead of the preset.
        train_logit_scale: train logit scale and bias as well; peft by itself freezes them.
        example: images and tokens for the check, if the model does not say their sizes.

    Returns:
        The same model.

    Raises:
        ArgumentError: if a value is out of range, a tower has nothing to adapt, or the check fails.
        StateError: if the model has adapters already.
        MissingExtraError: if peft is not installed.
    """
    _check_values(model, preset, rank, dropout, towers)
    peft = _import_peft()
    pattern = f"(?:{targets})" if targets else rf"(?!text_decoder\.)(?:.*\.)?(?:{'|'.join(PRESETS[preset])})"
    names = _targets(model, pattern, towers, targets or preset)
    exact = "|".join(map(re.escape, names))  # peft takes a list for endings, and visual.X ends in X
    config = peft.LoraConfig(r=rank, lora_alpha=alpha, lora_dropout=dropout, target_modules=exact)
    config._register_custom_module({nn.MultiheadAttention: _fused_attention()})
    scale = [name for name in ("logit_scale", "logit_bias") if isinstance(getattr(model, name, None), nn.Parameter)]
    inputs = example or example_input(model)
    before = {name: p.requires_grad for name, p in model.named_parameters()}
    peft.inject_adapter_in_model(config, model)
    for name in scale if train_logit_scale else ():
        getattr(model, name).requires_grad_(True)
    try:
        check_adapters(model, merge_lora, inputs)
    except ArgumentError:
        for name, parameter in merge_lora(model).named_parameters():  # B is 0 again: as it came
            parameter.requires_grad_(before[name])
        raise
    return model


def _check_values(model: nn.Module, preset: str, rank: int, dropout: float, towers: str) -> None:
    one_of("preset", preset, tuple(PRESETS))
    one_of("towers", towers, ("both", "image", "text"))
    if rank < 1 or not 0.0 <= dropout < 1.0:
        raise ArgumentError(f"`rank` must be at least 1 and `dropout` in [0, 1); got rank={rank}, dropout={dropout}")
    if has_lora(model):
        raise StateError("`model` has adapters already; merge_lora(model) first")


def _targets(model: nn.Module, pattern: str, towers: str, what: str) -> list[str]:
    """Full names of the layers to adapt; each wanted tower must have one."""
    of_image = in_image_tower(model)
    found = [name for name, _ in model.named_modules() if re.fullmatch(pattern, name)]
    chosen = []
    for tower in ("image", "text"):
        mine = [name for name in found if of_image(name) == (tower == "image")]
        if towers in ("both", tower):
            chosen += mine
            if not mine:
                raise ArgumentError(
                    f"`preset` {what!r} finds no layer in the {tower} tower of {type(model).__name__}; choose another "
                    f"one in `towers`, or give `targets`, a regular expression of module names"
                )
    return chosen


def _import_peft() -> Any:
    try:
        import peft
    except ImportError as error:
        raise MissingExtraError("adapters need peft installed; pip install 'tracerft[lora]'") from error
    return peft


@cache
def _fused_attention() -> Any:
    """A peft layer for `nn.MultiheadAttention` that does not touch W0 while it runs.

    peft 0.21's own adds B A of the output projection twice, and merges and unmerges in every forward, which lets W0
    drift by rounding and makes it a new parameter each time.
    """
    from peft.tuners.lora import layer

    class FusedAttention(layer.MultiheadAttention):
        def forward(self, query: Tensor, *args: Any, **kwargs: Any) -> Any:
            base: Any = self.get_base_layer()
            if self.disable_adapters or self.merged:
                return base(query, *args, **kwargs)
            weights = {
                "in_proj_weight": base.in_proj_weight + self.get_delta_weight(ADAPTER),
                "out_proj.base_layer.weight": base.out_proj.weight + base.out_proj.get_delta_weight(ADAPTER),
            }
            return functional_call(base, weights, (query, *args), kwargs)

        def merge(self, safe_merge: bool = False, adapter_names: list[str] | None = None) -> None:
            base: Any = self.get_base_layer()
            base.in_proj_weight.data += self.get_delta_weight(ADAPTER)
            base.out_proj.merge()
            self.merged_adapters.append(ADAPTER)

        def _restore_weights(self) -> None:
            pass  # nothing is ever taken out of its place

    return FusedAttention


def has_lora(model: nn.Module) -> bool:
    """Whether any layer carries an adapter."""
    return any(hasattr(module, "lora_A") for module in model.modules())


@torch.no_grad()
def merge_lora(model: nn.Module) -> nn.Module:
    """Add the adapters to the weights and take them out, in place; what was frozen stays frozen.

    Returns:
        The same model, with the names it had before `add_lora`.
    """
    names = [name for name, module in model.named_modules() if hasattr(module, "lora_A")]
    for name in sorted(names, key=len):  # a fused attention before the output projection inside it
        parent, _, leaf = name.rpartition(".")
        try:
            layer = model.get_submodule(name)
        except AttributeError:
            continue  # went with its attention
        if not hasattr(layer, "lora_A"):
            continue
        layer.merge()  # type: ignore[operator]
        base = layer.get_base_layer()  # type: ignore[operator]
        if isinstance(base, nn.MultiheadAttention):
            base.out_proj = base.out_proj.get_base_layer()  # type: ignore[operator]
        setattr(model.get_submodule(parent), leaf, base)
    return model


def without_lora(model: nn.Module) -> nn.Module:
    """A merged copy of a model with adapters; without adapters, the model itself."""
    return merge_lora(copy.deepcopy(model)) if has_lora(model) else model
