"""`tracerft finetune` with what it cannot use: what is typed, what the user reads, what is made, the exit code.

Each is given, as the current folder, a copy of what tests/compat keeps (``model``, ``finished`` and ``cut``, on digits)
and links to a model for images (``vit``), a run of it (``run``) and its data (``photos``).
"""

from pathlib import Path

from tests.badinput.door_makers import bomb, each_checkpoint, flipped, text, weights
from tests.badinput.doors import FILE, LONG, Door, both, captions, classes
from tests.data.pictures import class_set

SHORT = ["--train.steps=2", "--train.batch_size=4", "--train.device=cpu", "--train.lr=1e-3"]
DIGITS = ["finetune", "--model=model", "--data=digits", "--out=new", *SHORT]
IMAGES = ["finetune", "--model=vit", "--data=data", "--out=new", *SHORT]
CONFIG = "model: model\ndata: digits\nout: new\n"
RESUME = ["finetune", "--resume", "cut"]

FINETUNE = {
    "out is a file": Door([*DIGITS, "--out=f"], r"f: exists and is not empty", FILE),
    "out below a file": Door([*DIGITS, "--out=f/x"], r"f/x: cannot be written \(Not a directory\)", FILE),
    "out too long a name": Door([*DIGITS, "--out", LONG], r"xxx: File name too long; check that path"),
    "out empty": Door([*DIGITS, "--out="], r"`out` must be the name of a folder; got ''"),
    "out with NUL": Door(
        ["finetune", "--config=c.yaml", *SHORT],
        r"`out` must be the name of a folder; got 'a\\x00b'",
        text("c.yaml", 'model: model\ndata: digits\nout: "a\\0b"\n'),
    ),
    "config is a folder": Door(["finetune", "--config", "model"], r'"config": Path is not a file'),
    "config missing": Door(["finetune", "--config", "gone.yaml"], r'"config": File does not exist'),
    "config of no text": Door(["finetune", "--config=c.yaml"], r"no UTF-8 text", text("c.yaml", b"\xff\xfe\x00")),
    "alias bomb of any ending": Door(
        ["finetune", "--config", "c"], r"c: YAML aliases \(\*name\) are not accepted", text("c", bomb("model"))
    ),
    "deep config": Door(["finetune", "--config=c.yaml"], r"nested deeper than 20 levels", text("c.yaml", "[" * 20_000)),
    "group without options": Door(
        ["finetune", "--config=c.yaml"],
        r"option 'train': expected options below it; got nothing; remove the line",
        text("c.yaml", CONFIG + "train:\n"),
    ),
    "list for a text": Door(
        ["finetune", "--config=c.yaml"], r'option "model": .*str', text("c.yaml", "model: [a]\ndata: digits\nout: x\n")
    ),
    "unknown key in JSON": Door(
        ["finetune", "--config=c.json"],
        r"unknown key 'methd' \(did you mean 'method'\?\)",
        text("c.json", '{"model": "model", "methd": "flyp"}'),
    ),
    "rate NaN": Door([*DIGITS, "--train.lr=nan"], r'"train\.lr": expected float; got nan'),
    "steps without end": Door([*DIGITS, f"--train.steps={10**12}"], r"ask for 1,000,000,000,000 .* at most 10,000,000"),
    "epochs without end": Door(
        ["finetune", "--model=model", "--data=digits", "--out=new", f"--train.epochs={10**18}", "--dry_run"],
        r"`train\.epochs` ask for .* at most 10,000,000 are taken; lower them",
    ),
    "kernel parameter 0": Door([*DIGITS, "--teacher.a=0"], r"`a` must be a number in \(0, 1e\+06\]; got 0\.0"),
    "unknown device": Door([*DIGITS, "--train.device=cudda"], r"`train\.device` 'cudda' cannot be used .*try auto"),
    "fewer images than a batch": Door([*DIGITS, "--train.batch_size=9999"], r"3600 samples, less than one batch"),
    "weights of NaN": Door(DIGITS, r"step 1: loss, .* not finite", weights(lambda t: t * float("nan")), 1),
    "rate of 1e30": Door([*DIGITS, "--train.lr=1e30"], r"not finite .*lower train\.lr", code=1),
    "a model as data": Door([*IMAGES, "--data=model"], r"no images and no class folders"),
    "data as a model": Door([*DIGITS, "--model=photos"], r"`model` 'photos' is a folder without a finished model"),
    "a web page among photos": Door(
        IMAGES,
        r"cat/[0-9]\.png: a web page or SVG",
        both(classes(each=6), *(text(f"data/cat/{i}.png", "<html>") for i in range(6))),
    ),
    "only broken images, skipped": Door(
        [*IMAGES, "--broken=skip"],
        r"no image to evaluate on; check the data set with `tracerft inspect`",
        both(classes(), *(text(f"data/{c}/{i}.png", "x") for c in ("cat", "dog") for i in range(3))),
    ),
    "nothing held out of single images": Door(IMAGES, r"`hold_out` 0\.1 keeps none of 2 images out", classes(each=1)),
    "everything held out": Door(
        [*IMAGES, "--hold_out=0.99"],
        r"`hold_out` 0\.99 keeps all 1 images out of training",
        captions("a.png,one\na.png,two\n"),
    ),
    "binary class names": Door(
        [*IMAGES, "--classes=c.txt"], r"c\.txt: holds NUL", both(classes(), text("c.txt", b"\x00\x01"))
    ),
    "templates without braces": Door(
        [*IMAGES, "--templates=t.txt"], r"must have \{\} where", both(classes(), text("t.txt", "a photo\n"))
    ),
    "suite of other classes": Door(
        [*IMAGES, "--suite=test"],
        r"2 classes are not in the first: cow, hen; rename them",
        both(classes(), lambda: class_set(Path("test"), ("cow", "hen"))),
    ),
    "suite with a tag": Door(
        [*IMAGES, "--suite=s.yaml"],
        r"could not determine a constructor for the tag",
        both(classes(), text("s.yaml", "id: !!python/object/apply:os.system [touch hacked]\n")),
    ),
    "pool without captions": Door(
        [*IMAGES, "--method=arf", "--pool=photos"], r"`pool` photos: needs a caption for every image", classes()
    ),
    "guard without its suite": Door(
        [*IMAGES, "--guard.max_drop=2", "--guard.suite=gone"], r"gone: no such file or folder", classes(each=6)
    ),
}

RESUMED = {
    "a file as the run": Door(["finetune", "--resume", "cut/config.yaml"], r"nothing to resume"),
    "config with a tag": Door(
        RESUME, r"not the configuration of a run .*constructor", text("cut/config.yaml", "model: !!python/name:os.x\n")
    ),
    "config with a bomb": Door(RESUME, r"aliases \(\*name\) are not read", text("cut/config.yaml", bomb("model"))),
    "config empty": Door(RESUME, r"not the configuration of a run", text("cut/config.yaml", "")),
    "config binary": Door(RESUME, r"no UTF-8 text", text("cut/config.yaml", b"\xff\x00\x01")),
    "checkpoints of a later version": Door(
        RESUME, r"none of 2 checkpoints .*format 2, this version reads 1; update tracerft", each_checkpoint(format=2)
    ),
    "checkpoints of a deep manifest": Door(
        RESUME, r"none of 2 checkpoints .*not a whole checkpoint", each_checkpoint("[" * 100_000)
    ),
    "every checkpoint damaged": Door(
        RESUME,
        r"none of 2 checkpoints .*student\.safetensors: content changed .*put a whole one back",
        flipped("cut/checkpoints/*/student.safetensors"),
    ),
    "the newest checkpoint damaged": Door(
        RESUME,
        r"warning: passed over a checkpoint: .*step-00000004.*SHA-256 differs",
        flipped("cut/checkpoints/step-00000004/student.safetensors"),
        0,
    ),
    "its model gone": Door(RESUME, r"`model` 'model' is neither", lambda: Path("model").rename("moved")),
    "its model replaced": Door(RESUME, r"thing\(s\) changed: model_sha256: .* then, .* now", weights(lambda t: t * 2)),
    "its log gone": Door(
        RESUME,
        r"metrics\.jsonl: 0 bytes, the checkpoint was made after \d+",
        lambda: Path("cut/metrics.jsonl").unlink(),
    ),
}
