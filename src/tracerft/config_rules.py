"""What the options of a run must be, seen from their values alone; types are checked by `config_types`."""

from math import inf, isfinite

from tracerft.config import FinetuneConfig, GuardConfig
from tracerft.errors import ArgumentError


def check(config: FinetuneConfig) -> None:
    """Raise with every problem that the values alone show, in one line.

    Raises:
        ArgumentError: naming each option, what was expected and what came.
    """
    t, g, problems = config.train, config.guard, []
    guarded = g.max_drop is not None or g.rate is not None or g == GuardConfig()
    rules: list[tuple[str, object, bool, str]] = [
        ("out", repr(config.out), config.out != "" and "\0" not in config.out, "the name of a folder"),
        ("train.epochs", t.epochs, t.epochs >= 1, "at least 1 (to see the pretrained model, use tracerft evaluate)"),
        ("train.steps", t.steps, t.steps is None or t.steps >= 1, "at least 1 (or leave it out and set train.epochs)"),
        ("train.batch_size", t.batch_size, t.batch_size >= 2, "at least 2, as one pair has no negatives"),
        ("train.accumulate", t.accumulate, 1 <= t.accumulate <= t.batch_size, "at least 1, at most train.batch_size"),
        ("train.lr", t.lr, isfinite(t.lr) and t.lr > 0, "a finite number above 0"),
        ("train.weight_decay", t.weight_decay, isfinite(t.weight_decay) and t.weight_decay >= 0, "at least 0"),
        ("train.warmup_steps", t.warmup_steps, t.warmup_steps is None or t.warmup_steps >= 0, "at least 0"),
        ("train.seed", t.seed, 0 <= t.seed < 2**63, "between 0 and 2^63 - 1"),
        ("train.precision", t.precision, t.precision in ("fp32", "bf16"), "fp32 or bf16"),
        (
            "train.compile",
            "true",
            not (t.compile and config.lora.rank),
            "false with lora.rank; adapters do not compile",
        ),
        ("train.compile", "true", not (t.compile and t.shard), "false with train.shard; they were not tried together"),
        ("train.replicas", t.replicas, t.replicas == 1 or (t.shard and t.replicas > 1), "1, or more with train.shard"),
        ("train.log_every", t.log_every, t.log_every >= 1, "at least 1"),
        ("train.checkpoint_every", t.checkpoint_every, t.checkpoint_every >= 0, "at least 0"),
        ("train.probe_every", t.probe_every, t.probe_every >= 0, "at least 0"),
        ("freeze", config.freeze, config.freeze in ("none", "text", "image"), "none, text or image"),
        ("hold_out", config.hold_out, 0 <= config.hold_out < 1, "in [0, 1)"),
        ("broken", config.broken, config.broken in ("error", "skip"), "error or skip"),
        ("examples", config.examples, config.examples >= 0, "at least 1, or 0 for none"),
        ("lora.rank", config.lora.rank, config.lora.rank >= 0, "at least 1, or 0 for none"),
        ("digits.start", config.digits.start, config.digits.start >= 0, "at least 0"),
        ("probe", config.probe, config.probe in ("sgd", "lbfgs"), "sgd or lbfgs"),
        ("teacher.alpha", config.teacher.alpha, 0 <= config.teacher.alpha <= 1, "in [0, 1]"),
        ("teacher.swa_start", config.teacher.swa_start, 0 <= config.teacher.swa_start < 1, "in [0, 1)"),
        ("teacher.window", config.teacher.window, 1 <= config.teacher.window <= 10, "in 1 to 10"),
        ("loss.temperature", config.loss.temperature, config.loss.temperature > 0, "above 0"),
        ("guard.max_drop", g.max_drop, g.max_drop is None or 0 <= g.max_drop < inf, "at least 0 points"),
        ("guard.rate", g.rate, g.rate is None or 0 <= g.rate < inf, "a finite number, at least 0"),
        ("guard.max_drop", g.max_drop, guarded, "given, or guard.rate, to turn guard.* on, say 2"),
        ("guard.every", g.every, g.every is None or g.every >= 1, "at least 1 (or leave it out)"),
        ("guard.samples", g.samples, g.samples >= 1, "at least 1"),
    ]
    for name, value, holds, expected in rules:
        if not holds:
            problems.append(f"`{name}` must be {expected}; got {value}")
    if problems:
        raise ArgumentError("; ".join(problems))


def unused_options(config: FinetuneConfig, before: FinetuneConfig, uses: tuple[str, ...]) -> list[str]:
    """Options of methods that the user changed although the method does not read them.

    Args:
        config: as it is to be run.
        before: what was there before the user said anything: a preset's values, or the defaults.
        uses: names of the options that the method reads.
    """
    now, then = _of_methods(config), _of_methods(before)
    return [option for option, value in now.items() if value != then[option] and option not in uses]


def _of_methods(config: FinetuneConfig) -> dict[str, object]:
    """Options that only some methods read, as `MethodInfo.uses` names them."""
    groups = {f"{g}.{key}": value for g in ("loss", "teacher") for key, value in vars(getattr(config, g)).items()}
    return groups | {"probe": config.probe, "pool": config.pool}
