"""Split runs for `test_shards`: each function is one rank's part and leaves files behind."""

import json
from pathlib import Path

import torch
import torch.distributed as dist
from safetensors.torch import save_file
from torch import nn

from tests.conftest import SMALL
from tests.methods.steps import plan
from tests.methods.test_contract import build, student
from tests.runs import finetune
from tests.training.rank_runs import STEPS, tensors, trained
from tests.training.ranks import Digits
from tracerft.distributed import World
from tracerft.errors import TracerftError
from tracerft.models import compiling
from tracerft.models.tiny import TinyDualEncoder
from tracerft.split import is_split, local, whole
from tracerft.training.shards import _blocks, gradient_norm, shard
from tracerft.training.trainer import Trainer


def gathered(trainer) -> dict[str, torch.Tensor]:
    """`tensors`, whole."""
    return {name: whole(tensor).clone() for name, tensor in tensors(trainer).items()}


def held(trainer) -> int:
    """Bytes that this rank keeps between steps: weights, moments, and what the method has."""
    copies = (module.state_dict() for module in trainer.method.copies().values())
    moments = (value for state in trainer.optimizer.state.values() for value in state.values())
    every = [*trainer.model.state_dict().values(), *moments, *(t for state in copies for t in state.values())]
    return sum(local(t).numel() * t.element_size() for t in every)


def runs(world: World, folder: Path, names) -> None:
    """Whole runs of these methods in two chunks."""
    for name in names:
        trainer = trained(world, name, folder / name, shard=True, accumulate=2)
        save_file(gathered(trainer), folder / f"{name}-{world.rank}.safetensors")
        (folder / f"held-{name}-{world.rank}.json").write_text(json.dumps(held(trainer)))


def resumed(world: World, folder: Path) -> None:
    """TRACER on from a checkpoint that one process wrote, and to one for a single process or for four ranks."""
    if (folder / "from-one").is_dir():
        trainer = trained(world, "tracer", folder / "from-one", resume=True, shard=True)
        save_file(gathered(trainer), folder / f"from-one-{world.rank}.safetensors")
    trained(world, "tracer", folder / "to-one", steps=2, shard=True)


def on_four(world: World, folder: Path) -> None:
    """On from the checkpoint that two ranks have left."""
    trainer = trained(world, "tracer", folder / "to-four", resume=True, shard=True)
    save_file(gathered(trainer), folder / f"to-four-{world.rank}.safetensors")


def two_groups(world: World, folder: Path) -> None:
    """Two copies, each split over two of four ranks: a run, the norm of its last gradients, its traffic, refusals."""
    trainer = trained(world, "tracer", folder / "tracer", shard=True, replicas=2)
    save_file(gathered(trainer), folder / f"tracer-{world.rank}.safetensors")
    found = {"held": held(trainer), "refused": []}
    for p in trainer.model.parameters():  # of everything the same gradient, however it is split
        p.grad = p.detach() * 3
    found["norm"] = [
        float(gradient_norm(trainer.model, world, 2)),
        sum(float(whole(p.grad).square().sum()) for p in trainer.model.parameters()) ** 0.5,
    ]
    found |= counted(world, folder / "traffic", 1, batch_size=8, replicas=2)
    for replicas in (3, 4):
        try:
            shard(student("flyp"), build("flyp"), plan(1, batch_size=8, shard=True, replicas=replicas), world)
        except TracerftError as error:
            found["refused"].append(str(error))
    (folder / f"found-{world.rank}.json").write_text(json.dumps(found))


class Tied(TinyDualEncoder):
    """Both towers share a block's output layer, a parameter is frozen, and one without dimensions scales the images."""

    def __init__(self) -> None:
        super().__init__(SMALL, seed=1)
        self.text.blocks[0].out = self.visual.blocks[0].out
        self.gain = nn.Parameter(torch.tensor(1.5))
        self.visual.class_token.requires_grad_(False)

    def encode_image(self, image, normalize=False):
        """Scaled before the towers."""
        return super().encode_image(image * self.gain, normalize)


def tied(world: World, folder: Path, *, split: bool) -> None:
    """TRACER on a model with a tied, a frozen and a 0-d parameter."""
    where = folder / f"tied-{split}"
    where.mkdir(exist_ok=True)
    made = plan(STEPS, batch_size=7, lr=1e-3, shard=split)
    trainer = Trainer(Tied().double(), build("tracer"), Digits(), made, where, world=world)
    trainer.run()
    found = gathered(trainer) | {
        "same": torch.tensor(trainer.model.text.blocks[0].out is trainer.model.visual.blocks[0].out)
    }
    save_file(found, folder / f"tied-{split}-{world.rank}.safetensors")


def inside(world: World, folder: Path) -> None:
    """What a rank holds and sends, and what it says to a batch that is too small."""
    where = folder / "inside"
    where.mkdir(exist_ok=True)
    found = {}
    try:
        Trainer(
            student("flyp"),
            build("flyp"),
            Digits(),
            plan(1, batch_size=3, accumulate=2, shard=True),
            where,
            world=world,
        )
    except TracerftError as error:
        found["small"] = str(error)
    model, method = student("tracer").double(), build("tracer")
    method.start(model, STEPS)
    whole_norm = 0.0
    shard(model, method, plan(STEPS, shard=True), world)
    found["whole"] = sorted(name for name, p in model.named_parameters() if not is_split(p))
    for p in model.parameters():  # the same gradient on every rank, split as the parameter is
        p.grad = p.detach() * 3
        whole_norm += float(whole(p.grad).square().sum())
    found["norm"] = [float(gradient_norm(model, world)), whole_norm**0.5]
    if world.rank == 1:
        local(model.visual.blocks[0].out.weight.grad)[0] = float("nan")
    found["nan"] = float(gradient_norm(model, world)) != float(gradient_norm(model, world))
    (folder / f"inside-{world.rank}.json").write_text(json.dumps(found))


def traffic(world: World, folder: Path) -> None:
    """Numbers that a step of TRACER gathers and adds up, in one chunk and in two."""
    found = {chunks: counted(world, folder / "traffic", chunks) for chunks in (1, 2)}
    (folder / f"traffic-{world.rank}.json").write_text(json.dumps(found))


def counted(world: World, where: Path, chunks: int, *, batch_size=8, **changes) -> dict[str, int]:
    """Numbers of one step by torch's calls for split models: gathered, added up in a group, and over the groups."""
    where.mkdir(exist_ok=True)
    model = student("tracer").double()
    blocks = sum(p.numel() for block in _blocks(model) for p in block.parameters())
    made = plan(STEPS, batch_size=batch_size, accumulate=chunks, shard=True, **changes)
    trainer = Trainer(model, build("tracer"), Digits(), made, where, world=world)
    found = {"gathered": 0, "summed": 0, "over_groups": 0, "blocks": blocks}
    gather, scatter, reduce = dist.all_gather_single, dist.reduce_scatter_single, dist.all_reduce

    def all_gather_single(output, *rest, **named):
        found["gathered"] += output.numel()
        return gather(output, *rest, **named)

    def reduce_scatter_single(output, input, **named):
        found["summed"] += input.numel()
        return scatter(output=output, input=input, **named)

    def all_reduce(tensor, *rest, **named):
        if named.get("group") is not None:  # the trainer's own sums are over all ranks
            found["over_groups"] += tensor.numel()
        return reduce(tensor, *rest, **named)

    dist.all_gather_single, dist.reduce_scatter_single = all_gather_single, reduce_scatter_single
    dist.all_reduce = all_reduce
    trainer.model.train()
    trainer._one_step()
    dist.all_gather_single, dist.reduce_scatter_single, dist.all_reduce = gather, scatter, reduce
    return found


def command(world: World, folder: Path, model: Path, data: Path) -> None:
    """`tracerft.finetune`, split; then by ranks of which one was not told."""
    run = finetune(model, data, folder / "finetuned", train={"batch_size": 15, "shard": True, "probe_every": 0})
    try:
        finetune(model, data, folder / "told", train={"shard": world.rank == 0, "probe_every": 0})
        line = ""
    except TracerftError as error:
        line = str(error)
    (folder / f"command-{world.rank}.json").write_text(json.dumps([line, run.record]))


def compiled(world: World, folder: Path, model: Path, data: Path) -> None:
    """`tracerft.finetune` with compiled towers, not split; nothing is made machine code."""
    compiling.BACKEND = "eager"
    finetune(model, data, folder / "compiled", train={"batch_size": 15, "compile": True, "probe_every": 0})


def everything(world: World, folder: Path, names, model: Path, data: Path) -> None:
    """All of the above in one group, since starting processes takes longer than the work."""
    runs(world, folder, names)
    resumed(world, folder)
    tied(world, folder, split=True)
    tied(world, folder, split=False)
    inside(world, folder)
    traffic(world, folder)
    command(world, folder, model, data)
