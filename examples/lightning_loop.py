"""TRACER in Lightning: a callback owns the teacher; a small random model, so that it runs in seconds."""

import lightning.pytorch as pl
import open_clip
import torch
from torch.utils.data import DataLoader

from tracerft import TracerLoss
from tracerft.integrations.lightning import TeacherCallback

VISION = {"image_size": 32, "patch_size": 8, "layers": 2, "width": 32, "head_width": 16}


class Tuner(pl.LightningModule):
    def __init__(self, averager: TeacherCallback):
        super().__init__()
        self.model = open_clip.CLIP(24, VISION, {"layers": 2, "width": 32, "heads": 2})  # yours: open_clip.create_model
        self.averager, self.criterion = averager, TracerLoss(sd_weight=0.9)

    def training_step(self, batch, batch_idx):
        terms = self.criterion(self.model(*batch), self.averager.teacher(*batch))
        self.log_dict(terms.parts)
        return terms.total

    def configure_optimizers(self):
        return torch.optim.AdamW(self.model.parameters(), lr=1e-4, weight_decay=0.1)


def main() -> TeacherCallback:
    torch.manual_seed(0)
    averager = TeacherCallback("model")  # or teacher=lambda model, steps: EMATeacher(model, 0.999)
    batch = torch.randn(3, 3, 32, 32), open_clip.tokenize(["a photo of a dog", "a drawing of a house", "a map"])
    quiet = {"logger": False, "enable_checkpointing": False}
    trainer = pl.Trainer(max_epochs=2, accumulate_grad_batches=2, callbacks=averager, **quiet)
    trainer.fit(Tuner(averager), DataLoader([batch] * 4, batch_size=None))
    return averager


if __name__ == "__main__":
    print(f"pretrained share of the teacher {main().teacher.pretrained_weight:.3f}")
