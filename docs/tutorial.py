# %% [markdown]
# # Keep what the model knew: the story on digits
#
# A small model that reads grey digits learns colours. Finetuned directly it forgets the digits; with TRACER it keeps
# them. All of it runs on a laptop's processor in a minute or two: the model `tiny` and 5,000 real digits come with the
# package (`pip install -c constraints.txt -e '.[toy]'`), and nothing is downloaded.
#
# No result is written in this text. Each is computed when the cell below it runs, so yours are what counts. This page,
# the notebook [tutorial.ipynb](tutorial.ipynb) and the script [tutorial.py](tutorial.py) are one text; the script is
# where it is edited, and `make tutorial` writes the notebook.

# %%
import tempfile
import warnings
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import torch

from tracerft import TracerLoss, WMATeacher, evaluate, finetune, load_model, save_model
from tracerft.data.digits import DigitSet, embedded_digits
from tracerft.data.sampling import batch_at
from tracerft.evaluation.statistics import paired_difference
from tracerft.models.encoder import freeze

STEPS = 90  # optimiser steps of each run
POINTS = 11  # on the line from the pretrained to the finetuned weights, both ends included
FOLDER = Path(tempfile.mkdtemp(prefix="tracerft-tutorial-"))  # a run is a folder in it

# %% [markdown]
# ## The two tasks
#
# The original task: grey digits and ten captions, "the digit zero" to "the digit nine". The new task: coloured digits
# and two captions, "a red digit" for 0 to 4 and "a blue digit" for 5 to 9. In training the colour is the group's for
# 95 of 100 digits; for the rest it is the other one, so that colour is a shortcut that nearly always works.

# %%
test = embedded_digits("test")
shown = {"grey": DigitSet(test, "grey"), "coloured": DigitSet(test, "coloured")}
figure, axes = plt.subplots(len(shown), 8, figsize=(8, 2.2))
for row, (name, digits) in zip(axes, shown.items(), strict=True):
    row[0].set_title(name, loc="left", fontsize=9)
    for axis, image in zip(row, digits.images(np.arange(8)), strict=True):
        axis.imshow(image.permute(1, 2, 0).numpy())
        axis.set_axis_off()
figure.savefig(FOLDER / "digits.svg")

# %% [markdown]
# ## What the pretrained model knows
#
# `evaluate` reads a model and a suite: `id` is the new task, `original` the old one, and two shifts say whether a model
# answers by colour alone: `colour-random` tosses a coin for the colour, `colour-flipped` always shows the wrong one.
# Behind each accuracy stands its 95 % interval, as 1,000 test digits are a sample and no more; ECE says how far
# confidence and accuracy are apart.

# %%
pretrained = evaluate("tiny", "digits")
print(pretrained)

# %% [markdown]
# ## Direct finetuning forgets
#
# `flyp` is the pretraining loss on the new pairs and nothing else. The text tower stays as it is, as in the toy study.
# In the table, `select-` splits are training digits that were kept out, to choose settings with.

# %%
RECIPE = {"data": "digits", "freeze": "text", "train": {"steps": STEPS, "batch_size": 64, "lr": 1e-3}}
direct = finetune("tiny", method="flyp", out=FOLDER / "direct", **RECIPE)
print(direct)


# %%
def points(result, model, split):
    """Accuracy in points."""
    return 100 * result.results[model][split]["top1"]


def forgotten(run):
    """Points of the original task that the finetuned model has lost."""
    return points(run, "pretrained", "original") - points(run, "student", "original")


print(f"direct finetuning gained {points(direct, 'student', 'id') - points(direct, 'pretrained', 'id'):.1f} points")
print(f"and forgot {forgotten(direct):.1f} of {points(direct, 'pretrained', 'original'):.1f} points")

# %% [markdown]
# ## TRACER keeps
#
# The same data in the same order, the same steps and rates. What is added is a teacher, the weighted moving average of
# all states of the run, the pretrained one included, and four losses that hold the student near it. Student and teacher
# are both models that you can use.

# %%
tracer = finetune("tiny", method="tracer", out=FOLDER / "tracer", **RECIPE)
print(tracer)
print(f"forgotten, points: direct {forgotten(direct):.1f}, TRACER {forgotten(tracer):.1f}")

# %% [markdown]
# ## Is the difference real?
#
# Two runs on the same images: the interval of their difference is paired, so images that both get right or wrong do not
# widen it. An interval that leaves out 0 is a difference that this test set can show. It says nothing about another
# seed; for that, run several (`tracerft study toy --seeds 3`).

# %%
both = evaluate(tracer, against=direct)
for split, hits in both.hits.items():
    found = paired_difference(hits["tracer/student"], hits["direct/student"])
    low, high = (100 * edge for edge in found.ci95)
    print(f"{split:15} TRACER minus direct {100 * found.difference:+6.1f} points, 95 % [{low:+.1f}, {high:+.1f}]")

# %% [markdown]
# ## Between start and end
#
# Every point on the straight line from the pretrained to the finetuned weights is a model too (WiSE-FT). The line of a
# run shows what it could give at best: up and to the right is better.

# %%
paths = {"direct": evaluate(direct, interpolate=POINTS), "TRACER": evaluate(tracer, interpolate=POINTS)}
figure, axis = plt.subplots(figsize=(5.5, 4))
for name, path in paths.items():
    line = ["pretrained", *(m for m in path.results if m.startswith("student-wise-")), "student"]
    axis.plot([points(path, m, "id") for m in line], [points(path, m, "original") for m in line], "o-", label=name)
axis.set(xlabel="coloured task, %", ylabel="original task, %")
axis.legend()
figure.savefig(FOLDER / "paths.svg")

for name, path in paths.items():
    best = max(path.results, key=lambda m: points(path, m, "select-id") + points(path, m, "select-original"))
    print(f"{name}: best by the held-out training digits is {best},", end=" ")
    print(f"coloured {points(path, best, 'id'):.1f}, original {points(path, best, 'original'):.1f}")

# %% [markdown]
# ## In a loop of your own
#
# The teacher and the loss need no `finetune`. Below, digits stand for your data loader; the rest is what any loop would
# say, with `teacher.update` once per optimiser step. Captions repeat within these batches, so the loss is told which
# pairs are equal. The share of the pretrained weights in the teacher falls as the run goes on and does not vanish.

# %%
loaded = load_model("tiny")
model = loaded.model.train()
freeze(model, "text")
data = DigitSet(embedded_digits("train"), "coloured", tokenize=loaded.tokenize)

teacher = WMATeacher(model, total_steps=STEPS)
criterion = TracerLoss(sd_weight=0.9, targets="multi_positive")
trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
optimizer = torch.optim.AdamW(trained, lr=1e-3, weight_decay=0.1)
for step in range(STEPS):
    epoch, ids = batch_at(step, 0, len(data), 64)
    batch = data.batch(ids, epoch)
    pairs = batch.images, batch.tokens
    terms = criterion(model(*pairs), teacher(*pairs), labels=batch.caption_ids)
    terms.total.backward()
    optimizer.step()
    optimizer.zero_grad()
    teacher.update(model)
    if step % (STEPS // 6) == 0:
        share = 100 * teacher.pretrained_weight
        print(f"step {step:3}  loss {terms.total.item():6.3f}  pretrained share of the teacher {share:5.1f} %")

# %%
save_model(model, FOLDER / "own")
own = evaluate(FOLDER / "own", "digits")
print(own)

# %% [markdown]
# ## A guard
#
# A guard watches sets that must not lose while a run trains, says when one has, and at the end proposes a model: of all
# points on the line from the start, the most accurate on held-out images that loses no more than `max_drop` points on
# any guard set. Here it guards the shifts under direct finetuning. Flipped colours are the hard one, since the task
# asks the model to believe the colour: the smaller `max_drop`, the nearer to the pretrained model is what it proposes.
# In work of your own guard on other images than those you report; here they are the same, and the record says so.

# %%
guard = {"suite": "digits", "max_drop": 20.0, "every": max(1, STEPS // 3)}
with warnings.catch_warnings(record=True) as told:
    warnings.simplefilter("always")
    guarded = finetune("tiny", method="flyp", out=FOLDER / "guarded", guard=guard, **RECIPE)
for warning in told:
    print(warning.message)

# %%
chosen = guarded.record["guard"]["chosen"]
print(f"proposed: alpha {chosen['alpha']:g} towards the {chosen['model']}, also in {FOLDER / 'guarded' / 'guarded'}")
for model_name in ("pretrained", "student", "guarded"):
    row = "  ".join(f"{split} {points(guarded, model_name, split):5.1f}" for split in ("id", "original"))
    print(f"{model_name:12}{row}")
for point in guarded.record["guard"]["front"]:
    drops = "  ".join(f"{name} {drop:+6.1f}" for name, drop in point["drops"].items())
    print(
        f"alpha {point['alpha']:.1f}  held-out {100 * point['accuracy']:5.1f}  lost: {drops}  keeps: {point['keeps']}"
    )

# %% [markdown]
# ## Where next
#
# - Each run folder has a `report.html` with curves, and `record.json` with everything that was printed here.
# - [Your own images](own-data.md): the same with a folder of pictures and a real model, command by command.
# - [Methods](methods.md): what else can be compared, and `tracerft study compare --data digits`, which does.
# - [The toy study](results/toy/README.md): this story with more digits, three seeds and more methods, and where it
#   comes out differently from the paper.
