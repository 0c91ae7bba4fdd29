"""The linear probe against scikit-learn, its optimality condition and toys whose answer is known."""

import pytest
import torch
import torch.nn.functional as F

from tracerft.errors import ArgumentError, ShapeError
from tracerft.models import linear_probe
from tracerft.models.linear_probe import fit_probe, logistic_path


def _toy(num: int = 120, width: int = 6, classes: int = 4, noise: float = 2.0) -> tuple[torch.Tensor, torch.Tensor]:
    """Features with labels by a noisy linear rule, float64."""
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(num, width, generator=generator, dtype=torch.float64)
    rule = torch.randn(classes, width, generator=generator, dtype=torch.float64)
    scores = features @ rule.T + noise * torch.randn(num, classes, generator=generator, dtype=torch.float64)
    return features, scores.argmax(dim=1)


def _accuracy(fitted, features, labels) -> float:
    return ((features @ fitted[0].T + fitted[1]).argmax(dim=1) == labels).double().mean().item()


@pytest.fixture
def exact(monkeypatch):
    """L-BFGS to the limit of float64."""
    monkeypatch.setattr(linear_probe, "GRADIENT", 1e-9)
    monkeypatch.setattr(linear_probe, "ITERATIONS", 2000)


@pytest.mark.parametrize("inverse", [1e-3, 1.0, 10.0])
def test_minima_are_those_of_scikit_learn(exact, inverse):
    """Weights, and biases up to their common shift, which no probability sees."""
    sklearn = pytest.importorskip("sklearn.linear_model")
    features, labels = _toy()
    ((weight, bias),) = logistic_path(features, labels, 4, [inverse])
    theirs = sklearn.LogisticRegression(C=inverse, tol=1e-9, max_iter=5000).fit(features.numpy(), labels.numpy())
    torch.testing.assert_close(weight, torch.tensor(theirs.coef_), rtol=0, atol=1e-5)
    shift = torch.tensor(theirs.intercept_).mean() - bias.mean()
    torch.testing.assert_close(bias + shift, torch.tensor(theirs.intercept_), rtol=0, atol=1e-5)


def test_two_classes_are_one_logistic_row_split_in_two(exact):
    """Rows w/2 and -w/2 of scikit-learn's at twice its C: ||w/2||^2 twice is half of ||w||^2."""
    sklearn = pytest.importorskip("sklearn.linear_model")
    features, labels = _toy(classes=2)
    ((weight, bias),) = logistic_path(features, labels, 2, [0.5])
    theirs = sklearn.LogisticRegression(C=1.0, tol=1e-9, max_iter=5000).fit(features.numpy(), labels.numpy())
    row = torch.tensor(theirs.coef_[0])
    torch.testing.assert_close(weight, torch.stack([-row / 2, row / 2]), rtol=0, atol=1e-5)
    assert (bias[1] - bias[0]).item() == pytest.approx(theirs.intercept_[0], abs=1e-5)
    assert fit_probe(features, labels, 2)[0].shape == (2, 6)


def test_gradient_is_near_zero_at_each_optimum():
    """By autograd on torch's own cross-entropy plus ||W||^2 / (2 c), along a warm-started path."""
    features, labels = _toy()
    inverses = (1e-4, 1e-2, 1.0)
    for (weight, bias), inverse in zip(logistic_path(features, labels, 4, inverses), inverses, strict=True):
        weight, bias = weight.requires_grad_(), bias.requires_grad_()
        loss = F.cross_entropy(features @ weight.T + bias, labels, reduction="sum")
        ((loss + weight.square().sum() / (2 * inverse)) / len(labels)).backward()
        assert max(weight.grad.abs().max(), bias.grad.abs().max()) < 2 * linear_probe.GRADIENT


@pytest.mark.parametrize(("solver", "offset"), [("lbfgs", 3.0), ("sgd", 0.0)])
def test_separable_classes_are_learnt_whole(solver, offset):
    """Four corners of a square, in float32; L-BFGS takes them far from the origin, too."""
    generator = torch.Generator().manual_seed(1)
    labels = torch.arange(200) % 4
    corners = torch.tensor([[1.0, 1.0], [1.0, -1.0], [-1.0, 1.0], [-1.0, -1.0]])
    features = corners[labels] + 0.2 * torch.randn(200, 2, generator=generator) + offset
    fitted = fit_probe(features, labels, 4, solver=solver)
    assert fitted[0].dtype == fitted[1].dtype == torch.float32
    assert _accuracy(fitted, features, labels) == 1.0


def test_scale_and_place_of_the_features_do_not_matter():
    """Logits of 1000 x + 7 are those of x: strengths refer to features at unit deviation."""
    features, labels = _toy(60)
    weight, bias = fit_probe(features, labels, 4)
    moved_weight, moved_bias = fit_probe(1000 * features + 7, labels, 4)
    logits, moved = features @ weight.T + bias, (1000 * features + 7) @ moved_weight.T + moved_bias
    torch.testing.assert_close(moved, logits, rtol=0, atol=1e-6)


def test_strength_is_chosen_on_what_is_held_out():
    """Random labels reward nothing, so the choice is by likelihood: strong. A clear rule gets a weak one."""
    generator = torch.Generator().manual_seed(2)
    features = torch.randn(100, 30, generator=generator, dtype=torch.float64)
    noise = torch.randint(0, 2, (100,), generator=generator)
    held = torch.randperm(100, generator=torch.Generator().manual_seed(0))[:20]
    scores = {}
    scaled = (features - features.mean(dim=0)) / (features - features.mean(dim=0)).square().mean().sqrt()
    kept = torch.ones(100, dtype=torch.bool)
    kept[held] = False
    for inverse, fitted in zip(
        linear_probe.INVERSES, logistic_path(scaled[kept], noise[kept], 2, linear_probe.INVERSES), strict=True
    ):
        logits = scaled[held] @ fitted[0].T + fitted[1]
        scores[inverse] = _accuracy(fitted, scaled[held], noise[held]), -F.cross_entropy(logits, noise[held]).item()
    best = max(scores, key=scores.__getitem__)
    expected = logistic_path(scaled, noise, 2, [best])[0][0] / (features - features.mean(dim=0)).square().mean().sqrt()
    torch.testing.assert_close(fit_probe(features, noise, 2)[0], expected, rtol=0, atol=1e-3)
    easy = (features[:, 0] > 0).long()
    assert fit_probe(features, easy, 2)[0].norm() > 10 * expected.norm()


def test_absent_classes_get_rows_that_never_win():
    """Rows 1 and 4 of five: zero weight, at most 1/n of the probability; the others as if they were alone."""
    features, labels = _toy(classes=3)
    spread = torch.tensor([0, 2, 3])[labels]
    weight, bias = fit_probe(features, spread, 5)
    alone = fit_probe(features, labels, 3)
    torch.testing.assert_close(weight[[0, 2, 3]], alone[0])
    assert weight[[1, 4]].abs().max().item() == 0.0
    assert bias.isfinite().all()
    assert (features @ weight.T + bias).softmax(dim=1)[:, [1, 4]].max().item() <= 1 / len(labels)
    single = fit_probe(features, torch.full_like(spread, 2), 5)
    assert _accuracy(single, features, torch.full_like(spread, 2)) == 1.0


def test_sgd_starts_at_the_head_and_lowers_the_loss():
    """No epoch leaves the zero-shot head as it is; ten lower its loss on unit-norm features at CLIP's scale."""
    features, labels = _toy(300)
    features = F.normalize(features, dim=1)
    head = 30 * F.normalize(torch.randn(4, 6, generator=torch.Generator().manual_seed(3)), dim=1)
    weight, bias = fit_probe(features, labels, 4, solver="sgd", head=head, epochs=0)
    assert torch.equal(weight, head.double())
    assert bias.abs().max().item() == 0.0
    losses = []
    for epochs in (0, 10):
        weight, bias = fit_probe(features, labels, 4, solver="sgd", head=head, epochs=epochs)
        losses.append(F.cross_entropy(features @ weight.T + bias, labels).item())
    assert losses[1] < 0.6 * losses[0]


def test_one_epoch_of_sgd_is_that_of_torch(monkeypatch):
    """torch.optim.SGD with momentum and a cosine schedule on the same order of batches, the last one short."""
    monkeypatch.setattr(linear_probe, "BATCH", 16)
    features, labels = _toy(40)
    weight, bias = (torch.zeros(*s, dtype=torch.float64, requires_grad=True) for s in ((4, 6), (4,)))
    peak = 2 / (features.square().sum(dim=1).mean().item() + 1)
    optimizer = torch.optim.SGD([weight, bias], lr=peak, momentum=0.9)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 6)
    generator = torch.Generator().manual_seed(4)
    for _ in range(2):
        for batch in torch.randperm(40, generator=generator).split(16):
            optimizer.zero_grad()
            F.cross_entropy(features[batch] @ weight.T + bias, labels[batch]).backward()
            optimizer.step()
            schedule.step()
    ours = fit_probe(features, labels, 4, solver="sgd", seed=4, epochs=2)
    torch.testing.assert_close(ours[0], weight.detach(), rtol=0, atol=1e-12)
    torch.testing.assert_close(ours[1], bias.detach(), rtol=0, atol=1e-12)
    assert not torch.equal(fit_probe(features, labels, 4, solver="sgd", seed=5, epochs=2)[0], ours[0])


def test_logits_are_held_in_parts(monkeypatch):
    """A smaller part gives the same optimum."""
    features, labels = _toy(50)
    whole = fit_probe(features, labels, 4)
    monkeypatch.setattr(linear_probe, "CHUNK", 7)
    torch.testing.assert_close(fit_probe(features, labels, 4)[0], whole[0], rtol=0, atol=1e-6)


def test_misuse_is_explained_in_one_line():
    """Solvers, shapes and ids."""
    features, labels = _toy(10)
    for call, error, text in [
        (lambda: fit_probe(features, labels, 4, solver="lbfg"), ArgumentError, "did you mean 'lbfgs'"),
        (lambda: fit_probe(features, labels[:9], 4), ShapeError, "one class id an example"),
        (lambda: fit_probe(features[:1], labels[:1], 4), ShapeError, "n >= 2"),
        (lambda: fit_probe(features, labels + 1, 4), ArgumentError, r"integers in \[0, 4\)"),
        (lambda: fit_probe(features, labels.double(), 4), ArgumentError, "torch.float64"),
        (lambda: fit_probe(features, labels, 4, head=torch.zeros(4, 5)), ShapeError, r"`head` must be \(4, 6\)"),
    ]:
        with pytest.raises(error, match=text) as caught:
            call()
        assert "\n" not in str(caught.value)
