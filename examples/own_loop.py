"""TRACER in a training loop of your own: a stock open_clip model, random images, the stock tokenizer.

The weights here are random and the model is open_clip's smallest, so that it runs in seconds without a download;
put `open_clip.create_model_and_transforms("ViT-B-16-quickgelu", pretrained="openai")` and your own pairs in.
"""

import open_clip
import torch

from tracerft import TracerLoss, WMATeacher

MODEL = "ViT-S-32-alt"
CAPTIONS = ["a photo of a dog", "a photo of a cat", "a drawing of a house", "a map of an old town"]


def pairs(num_batches: int, size: tuple[int, int]) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """What a DataLoader would give: images as the model's preprocessing makes them, and tokens."""
    tokenizer = open_clip.get_tokenizer(MODEL)
    generator = torch.Generator().manual_seed(0)
    texts = tokenizer(CAPTIONS)
    images = torch.randn(len(CAPTIONS), 3, *size, generator=generator)
    return [(images, texts)] * num_batches


def main(epochs: int = 2) -> tuple[list[float], float]:
    """Train; returns the losses and the share that the pretrained weights keep in the teacher."""
    torch.manual_seed(0)
    model = open_clip.create_model(MODEL)  # pretrained="..." loads weights
    loader = pairs(num_batches=3, size=model.visual.image_size)

    teacher = WMATeacher(model, total_steps=epochs * len(loader))
    criterion = TracerLoss(sd_weight=0.9)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, weight_decay=0.1)
    losses = []
    for _ in range(epochs):
        for images, texts in loader:
            terms = criterion(model(images, texts), teacher(images, texts))
            terms.total.backward()
            optimizer.step()
            optimizer.zero_grad()
            teacher.update(model)  # once per optimiser step
            losses.append(float(terms.total.detach()))
            print(f"loss {losses[-1]:.3f}  pretrained share of the teacher {teacher.pretrained_weight:.3f}")
    return losses, teacher.pretrained_weight


if __name__ == "__main__":
    main()
