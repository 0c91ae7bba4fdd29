"""A model tried on random inputs: do all adapters learn, and is merging the same?"""

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from tracerft.errors import ArgumentError

TOLERANCE = 1e-5


def example_input(model: nn.Module, num: int = 2) -> tuple[Tensor, Tensor]:
    """Random images ``(num, 3, H, W)`` and token ids ``(num, L)`` of the sizes that the model says it takes.

    Raises:
        ArgumentError: if it does not say.
    """
    size, context, vocabulary = _sizes(model)
    if size is None or context is None:
        raise ArgumentError(f"the input sizes of {type(model).__name__} are not known; pass `example`=(images, tokens)")
    generator = torch.Generator().manual_seed(0)
    height, width = (size, size) if isinstance(size, int) else size
    device = next(model.parameters()).device
    images = torch.randn(num, 3, height, width, generator=generator)
    tokens = torch.randint(1, vocabulary - 1, (num, context), generator=generator)
    end = getattr(model, "text_end", None)
    tokens[:, -1] = end if isinstance(end, int) else vocabulary - 1
    return images.to(device), tokens.to(device)


def _sizes(model: Any) -> tuple[Any, int | None, int]:
    inner: Any = getattr(model, "model", None)
    if hasattr(inner, "config"):  # transformers
        config = inner.config
        text = config.text_config
        return config.vision_config.image_size, text.max_position_embeddings, text.vocab_size
    if hasattr(getattr(model, "visual", None), "image_size"):  # open_clip
        text = getattr(model, "text", model)
        return model.visual.image_size, getattr(text, "context_length", None), getattr(text, "vocab_size", 2)
    context = getattr(getattr(model, "config", None), "context", None)  # tiny and mini
    return (None if context is None else getattr(model.config, "image_size", 28)), context, 40


def check_adapters(model: nn.Module, merge: Callable[[nn.Module], nn.Module], example: tuple[Tensor, Tensor]) -> None:
    """Fill the adapters at random for a moment and try them.

    Raises:
        ArgumentError: if a trainable tensor gets no gradient, or the merged model gives other embeddings.
    """
    outer = {name: p for name, p in model.named_parameters() if ".lora_B." in name}
    training = model.training
    model.eval()
    try:
        with torch.random.fork_rng(devices=[]), torch.enable_grad():
            torch.manual_seed(0)
            for parameter in outer.values():  # peft starts B at 0, which hides every mistake
                parameter.data.normal_(std=0.02)
            apart = _gradients_and_output(model, example)
            merged = _outputs(merge(copy.deepcopy(model)), example)
    finally:
        for parameter in outer.values():
            parameter.data.zero_()
        model.train(training)
        model.zero_grad(set_to_none=True)
    gap = max(float((a - m).abs().max()) for a, m in zip(apart, merged, strict=True))
    if not gap <= TOLERANCE:
        raise ArgumentError(
            f"the adapters cannot be merged: the embeddings of the merged model differ by {gap:.1e} (at most "
            f"{TOLERANCE:.0e} expected); use a preset, or narrower `targets`"
        )


def _gradients_and_output(model: nn.Module, example: tuple[Tensor, Tensor]) -> list[Tensor]:
    image, text = _outputs(model, example)
    logits = model.logit_scale.exp() * image @ text.T  # type: ignore[operator]
    bias = getattr(model, "logit_bias", None)
    logits = logits if bias is None else logits + bias
    loss = (logits * torch.randn(logits.shape).to(logits)).sum()
    if loss.requires_grad:  # else no adapter at all is in the way
        loss.backward()
    deaf = [
        name
        for name, p in model.named_parameters()
        if p.requires_grad and (p.grad is None or not bool(p.grad.abs().max() > 0))
    ]
    if deaf:
        shown = ", ".join(deaf[:3]) + (" ..." if len(deaf) > 3 else "")
        raise ArgumentError(
            f"{len(deaf)} adapter tensors get no gradient and would never train ({shown}); torch's fused attention "
            "and pooling heads bypass an adapter on `out_proj`: use a preset, or narrower `targets`"
        )
    return [image.detach(), text.detach()]


def _outputs(model: nn.Module, example: tuple[Tensor, Tensor]) -> list[Tensor]:
    images, tokens = example
    encode: Any = model
    return [encode.encode_image(images, normalize=True), encode.encode_text(tokens, normalize=True)]
