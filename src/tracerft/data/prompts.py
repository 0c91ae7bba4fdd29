"""Class names to captions: templates with ``{}`` where the name goes."""

from collections.abc import Sequence
from pathlib import Path

from tracerft.data.rows import decode_text
from tracerft.data.text import clean_caption, shown
from tracerft.errors import ArgumentError, DataError, did_you_mean

TEMPLATE_NAMES = ("openai_imagenet", "simple")


def read_templates(source: str | Path | Sequence[str]) -> tuple[str, ...]:
    """Templates by name, from a text file (one a line), or as given.

    Args:
        source: ``openai_imagenet`` (80 templates) or ``simple`` (7), both CLIP's own; a path; one
            template; or a list of templates.

    Raises:
        ArgumentError: if a template has no ``{}``, or other braces.
        DataError: if the file cannot be read.
    """
    if isinstance(source, str) and source in TEMPLATE_NAMES:
        return _named(source)
    if isinstance(source, str) and "{" in source:
        source = [source]
    if isinstance(source, (str, Path)):
        path = Path(source)
        if not path.is_file():
            raise DataError(
                f"templates {shown(source)!r} are neither a name ({', '.join(TEMPLATE_NAMES)}) nor a file"
                f"{did_you_mean(source, TEMPLATE_NAMES)}; give one of them, or a list such as ['a photo of a {{}}.']"
            )
        text, _ = decode_text(path.read_bytes(), shown(path))
        source = [line for line in text.replace("\r\n", "\n").split("\n") if line.strip()]
    templates = tuple(clean_caption(str(template))[0] for template in source)
    for template in templates:
        rest = template.replace("{}", "")
        if rest == template or "{" in rest or "}" in rest:
            raise ArgumentError(
                f"a template must have {{}} where the class name goes and no other braces; got {shown(template)!r}; "
                "write it like 'a photo of a {}.'"
            )
    if not templates:
        raise ArgumentError("`templates` is empty; give at least one, such as 'a photo of a {}.'")
    return tuple(dict.fromkeys(templates))


def _named(name: str) -> tuple[str, ...]:
    from open_clip import OPENAI_IMAGENET_TEMPLATES, SIMPLE_IMAGENET_TEMPLATES

    templates = OPENAI_IMAGENET_TEMPLATES if name == "openai_imagenet" else SIMPLE_IMAGENET_TEMPLATES
    return tuple(template("{}") for template in templates)


def class_captions(classes: Sequence[str], templates: Sequence[str]) -> tuple[tuple[str, ...], ...]:
    """Every template filled with every class name.

    Returns:
        C tuples of as many captions as there are templates.
    """
    return tuple(tuple(template.replace("{}", name) for template in templates) for name in classes)
