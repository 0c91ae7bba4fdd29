"""Checks that losses on image embeddings share."""

from torch import Tensor

from tracerft.errors import ShapeError


def check_images(student: Tensor, teacher: Tensor) -> None:
    """Raise `ShapeError` unless both are ``(N, D)`` of one shape with N >= 1."""
    shapes = tuple(student.shape), tuple(teacher.shape)
    if shapes[0] != shapes[1] or len(shapes[0]) != 2 or shapes[0][0] == 0:
        raise ShapeError(
            f"`student_image` and `teacher_image` must both be (N, D) with N >= 1; got {shapes[0]} and {shapes[1]}; "
            "embed the same batch with both models"
        )


def check_width(name: str, rows: Tensor, width: int) -> None:
    """Raise `ShapeError` unless ``rows`` are ``(K, width)`` with K >= 1."""
    if rows.ndim != 2 or len(rows) == 0 or rows.shape[1] != width:
        raise ShapeError(
            f"`{name}` must be (K, {width}), rows as wide as the images, with K >= 1; got {tuple(rows.shape)}; "
            "embed them with the same model"
        )
