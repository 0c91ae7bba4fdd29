"""TRACER with the Trainer of transformers; random weights and pairs, so that it runs in seconds.

Put `CLIPModel.from_pretrained(...)`, or `SiglipModel`, and what its processor makes of your pairs in.
"""

from tempfile import TemporaryDirectory

import torch
from transformers import CLIPConfig, CLIPModel, TrainingArguments

from tracerft import TracerLoss
from tracerft.integrations.transformers import TracerTrainer

SIZES = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2}
TEXT = SIZES | {"vocab_size": 100, "max_position_embeddings": 8, "eos_token_id": 99}
VISION = SIZES | {"image_size": 32, "patch_size": 8}


def main(folder: str) -> TracerTrainer:
    torch.manual_seed(0)
    model = CLIPModel(CLIPConfig(text_config=TEXT, vision_config=VISION, projection_dim=24))
    tokens = torch.cat([torch.randint(3, 99, (16, 7)), torch.full((16, 1), 99)], dim=1)
    pairs = [{"pixel_values": torch.randn(3, 32, 32), "input_ids": row} for row in tokens]
    args = TrainingArguments(
        folder, num_train_epochs=2, per_device_train_batch_size=4, gradient_accumulation_steps=2, learning_rate=1e-3,
        logging_steps=1, save_strategy="epoch", eval_strategy="epoch", report_to="none", use_cpu=True,
    )  # fmt: skip
    trainer = TracerTrainer(
        model, args, criterion=TracerLoss(sd_weight=0.9), train_dataset=pairs, eval_dataset=pairs[:8]
    )
    trainer.train()  # resume_from_checkpoint=True goes on where it was cut off, teacher included
    trainer.teacher.averaged.save_pretrained(f"{folder}/teacher")
    return trainer


if __name__ == "__main__":
    with TemporaryDirectory() as folder:
        print(f"pretrained share of the teacher {main(folder).teacher.pretrained_weight:.3f}")
