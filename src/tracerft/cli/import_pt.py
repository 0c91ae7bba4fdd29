"""`tracerft import-pt`: a foreign .pt file as safetensors, without running what it says."""

import json
from collections.abc import Sequence

from tracerft.cli.options import Parser
from tracerft.errors import ArgumentError


def run(arguments: Sequence[str]) -> None:
    """Write the file; prints what it holds."""
    text = "Turn the weights in a PyTorch file into safetensors without running any code in it."
    parser = Parser("import-pt", text, "tracerft import-pt FILE --out FILE.safetensors [options]")
    parser.add_argument("file", type=str, help="the .pt or .pth file")
    parser.add_argument("--out", type=str, required=True, help="the .safetensors file to write")
    parser.add_argument("--key", type=str, default=None, help="entry that holds the weights, if there are several")
    parser.add_argument("--max_gb", type=float, default=8.0, help="largest file to read, in gigabytes")
    parser.add_argument("--json", action="store_true", help="print JSON instead of text")
    options = parser.read(arguments)
    if not 0 < options.max_gb < 10_000:
        raise ArgumentError(f"`max_gb` must be above 0 and below 10000; got {options.max_gb}")
    from tracerft.models.import_pt import import_pt

    found = import_pt(options.file, options.out, key=options.key, max_bytes=max(1, int(options.max_gb * 2**30)))
    facts = {
        "path": str(found.path),
        "num_tensors": found.num_tensors,
        "source_sha256": found.source_sha256,
        "sha256": found.sha256,
    }
    if options.json:
        print(json.dumps(facts, indent=2))
        return
    print(f"{found.path}: {found.num_tensors:,} tensors")
    print(f"sha256 of the source {found.source_sha256}")
    print(f"sha256 of the result {found.sha256}")
