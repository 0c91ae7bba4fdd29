"""All commands but finetune with what they cannot use; see `bad_trainings`."""

import os
from pathlib import Path

from tests.badinput.bad_trainings import FINETUNE, RESUMED
from tests.badinput.door_makers import altered, bomb, sparse, text, weights, with_code
from tests.badinput.doors import FILE, LONG, Door, both, captions, classes
from tests.data.pictures import put, table

ON_DIGITS = ["evaluate", "model", "--suite", "digits"]
ON_PHOTOS = ["evaluate", "m", "--suite", "photos"]
BAD_BYTES = os.fsdecode(b"\xff.png")  # a name that is no UTF-8

MODELS = {
    "deep description": Door(ON_DIGITS, r"not a model description", text("model/tracerft_model.json", "[" * 100_000)),
    "cut-off weights": Door(
        ON_DIGITS, r"not a whole safetensors file", lambda: os.truncate("model/model.safetensors", 9000)
    ),
    "header of 2^62 bytes": Door(
        ON_DIGITS, r"header too large", text("model/model.safetensors", (1 << 62).to_bytes(8, "little") + b"{}")
    ),
    "weights NaN": Door(ON_DIGITS, r"`logits` must be finite; .*weights", weights(lambda t: t * float("nan"))),
    "weights lacking": Door(ON_DIGITS, r"weights do not fit .*Missing key", weights(lambda t: t, leave="logit_scale")),
    "a width of 10^9": Door(
        ON_DIGITS, r"weights do not fit", altered("model/tracerft_model.json", model={"width": 10**9})
    ),
    "10^9 layers": Door(
        ON_DIGITS, r"tensors cannot be 1000000000", altered("model/tracerft_model.json", model={"layers": 10**9})
    ),
    "a negative width": Door(
        ON_DIGITS, r"`heads` must divide `width`", altered("model/tracerft_model.json", model={"width": -1})
    ),
    "transformers pickle": Door(
        ON_PHOTOS,
        r"no file named model\.safetensors",
        both(text("m/config.json", '{"model_type": "clip"}'), with_code("m/pytorch_model.bin")),
    ),
    "transformers with code": Door(
        ON_PHOTOS,
        r"model type `evil`",
        text("m/config.json", '{"model_type": "evil", "auto_map": {"AutoModel": "e.E"}}'),
    ),
    "open_clip pickle": Door(
        ON_PHOTOS,
        r"no weights there; expected open_clip_model\.safetensors",
        both(
            lambda: text("m/open_clip_config.json", Path("vit/open_clip_config.json").read_bytes())(),
            with_code("m/open_clip_pytorch_model.bin"),
        ),
    ),
    "open_clip without JSON": Door(
        ON_PHOTOS, r"not a model description of open_clip", text("m/open_clip_config.json", "{")
    ),
}

FINISHED = {
    "record of a later version": Door(
        ["report", "finished"],
        r"written by tracerft 9\.0\.0; this release",
        altered("finished/record.json", tracerft="9.0.0"),
    ),
    "record deep": Door(["report", "finished"], r"not readable JSON", text("finished/record.json", "[" * 100_000)),
    "record with NaN": Door(["report", "finished"], r"NaN is not finite", text("finished/record.json", '{"a": NaN}')),
    "record a list": Door(
        ["report", "finished"], r"must hold a JSON object; got list", text("finished/record.json", "[]")
    ),
    "record of words": Door(
        ["report", "finished"],
        r"hold what no run writes",
        altered("finished/record.json", results={"student": {"id": {"top1": "x"}}}),
    ),
    "log binary": Door(
        ["report", "finished"], r"line 1, must be a JSON object", text("finished/metrics.jsonl", b"\x00\xff\n{}\n")
    ),
    "study deep": Door(["report", "s"], r"study\.json is not readable JSON", text("s/study.json", "[" * 100_000)),
    "web page to predict": Door(["predict", "run", "a.jpg"], r"a\.jpg: a web page", text("a.jpg", "<html>")),
    "predict with a digits run": Door(
        ["predict", "finished", "a.png"], r"28x28 digits only", lambda: put(Path("a.png"))
    ),
    "predict NUL": Door(["predict", "run", "a\0.png"], r"a\\x00\.png: no such image"),
    "predict too long a name": Door(["predict", "run", f"{LONG}.png"], r"File name too long"),
    "predict a bad name": Door(["predict", "run", BAD_BYTES], r"\\udcff\.png", lambda: put(Path(BAD_BYTES)), 0),
    "predict a bad name as JSON": Door(
        ["predict", "run", BAD_BYTES, "--json"], r'"image": "\\udcff\.png"', lambda: put(Path(BAD_BYTES)), 0
    ),
    "predict with an unfinished run": Door(
        ["predict", "cut", "a.png"],
        r"cut/record\.json does not exist; the run has not finished",
        lambda: put(Path("a.png")),
    ),
    "predictions into a file": Door(
        ["evaluate", "finished", "--predictions=f"], r"f/pretrained: Not a directory; check that path", FILE
    ),
    "evaluate on a bomb": Door(
        ["evaluate", "run", "--suite=s.yaml"], r"aliases \(\*name\) are not accepted", text("s.yaml", bomb("id"))
    ),
    "evaluate on a folder named suite": Door(
        ["evaluate", "run", "--suite=s.yaml"], r"cannot read s\.yaml", lambda: Path("s.yaml").mkdir()
    ),
    "evaluate without the groups": Door(
        ["evaluate", "run", "--suite=s.yaml"],
        r"group names 'place', which is not there",
        both(
            lambda: table(Path("t"), "image,label\na.png,cat\nb.png,dog\n"),
            text("s.yaml", "id: {data: t, group: place, metric: worst_group}\n"),
        ),
    ),
    "minus three points": Door(["evaluate", "run", "--interpolate=-3"], r"`interpolate` must be 0 or at least 2"),
    "export into a file": Door(["export", "run", "--to=open_clip", "--out=f"], r"`out` 'f' is in use", FILE),
    "export below a file": Door(["export", "run", "--to=open_clip", "--out=f/x"], r"f/x: Not a directory", FILE),
    "export to too long a name": Door(["export", "run", "--to=open_clip", "--out", LONG], r"File name too long"),
    "export of an unfinished run": Door(["export", "cut", "--to=onnx", "--out=x"], r"the run has not finished"),
    "export to what cannot be": Door(
        ["export", "finished", "--to=hf", "--out=x"], r"there is no such form of it; use onnx"
    ),
    "merge beyond the end": Door(
        ["merge", "wise", "finished", "--out=x", "--alpha=2"], r"`alpha` must be a number in \[0, 1\]; got 2"
    ),
    "soup of one": Door(["merge", "uniform_soup", "finished", "--out=x"], r"takes at least 2 runs; got 1"),
    "soup of two starts": Door(["merge", "uniform_soup", "finished", "run", "--out=x"], r"`runs` must share one start"),
    "merge into what is there": Door(["merge", "wise", "finished", "--out=model"], r"exists and is not empty"),
    "merge below a file": Door(["merge", "wise", "finished", "--out=f/x"], r"f/x: Not a directory", FILE),
    "merge of an unfinished run": Door(["merge", "wise", "cut", "--out=x"], r"cut: not a finished run"),
    "compare an unfinished run": Door(["compare", "finished", "cut", "--out=x"], r"cut/record\.json does not exist"),
    "compare into a file": Door(["compare", "finished", "run", "--out=f"], r"f: is a run, a study or a file", FILE),
    "compare below a file": Door(["compare", "finished", "run", "--out=f/x"], r"f/x: Not a directory", FILE),
    "compare a run with itself": Door(["compare", "finished", "finished", "--out=x"], r"got finished twice"),
}

OTHERS = {
    "inspect long captions": Door(
        ["inspect", "data", "--model=vit"],
        r"! 1 captions fill the context of 16 tokens",
        captions(f"a.png,{'word ' * 200}\nb.png,x\n"),
        0,
    ),
    "inspect bad names": Door(
        ["inspect", "data"],
        r"! 1 images occur twice: cat/0\.png is cat/\\udcff\.png",
        both(classes(), lambda: put(Path("data/cat", BAD_BYTES))),
        0,
    ),
    "inspect an image of 16 GiB": Door(
        ["inspect", "data"],
        r"cat/0\.png: 16384 MiB encoded, the limit is 256",
        both(classes(), sparse("data/cat/0.png", 34)),
        0,
    ),
    "inspect a table of 2 GiB": Door(
        ["inspect", "data"],
        r"a table of 2048 MiB, the limit is 1024",
        both(captions(""), sparse("data/captions.csv", 31)),
    ),
    "inspect with no model": Door(["inspect", "photos", "--model=gone"], r"`model` 'gone' is neither"),
    "a pickle that calls": Door(
        ["import-pt", "a.pt", "--out=a.safetensors"],
        r"refused, it may run code \(it calls `\w+\.system`\)",
        with_code("a.pt"),
    ),
    "import of a folder": Door(["import-pt", "model", "--out=a.safetensors"], r"no such file to import"),
    "a method too many": Door(["methods", "stray"], r"unrecognized arguments: stray"),
    "study of no seed": Door(["study", "toy", "--seeds=0", "--out=x"], r"`seeds` must be at least 1; got 0"),
    "study of no worker": Door(["study", "toy", "--workers=0", "--out=x"], r"`workers` must be at least 1; got 0"),
}

DOORS: dict[str, Door] = {
    f"{where}: {kind}": door
    for where, doors in {
        "finetune": FINETUNE,
        "resume": RESUMED,
        "model": MODELS,
        "run": FINISHED,
        "other": OTHERS,
    }.items()
    for kind, door in doors.items()
}
