"""Methods without a step of their own: the pretrained model, and merges of finished runs."""

from tracerft.methods.base import MethodInfo
from tracerft.methods.contrastive import Contrastive


def _row(name: str, paper: str, year: int, summary: str, cost: str, extra_data: str, how: str) -> MethodInfo:
    family = "weight space"
    return MethodInfo(
        name=name, family=family, paper=paper, year=year, summary=summary, cost=cost, extra_data=extra_data, how=how
    )


ROWS = (
    MethodInfo(
        name="zero_shot",
        family="weight space",
        paper="Radford et al., ICML 2021, arXiv 2103.00020",
        year=2021,
        summary="The pretrained model as it is, with captions of the classes as its classifier.",
        cost="0",
        trains=False,
        build=lambda i: Contrastive("zero_shot"),
    ),
    _row(
        "uniform_soup",
        "Wortsman et al., ICML 2022, arXiv 2203.05482",
        2022,
        "The mean of the weights of several finished runs.",
        "n runs",
        "none",
        "tracerft merge uniform_soup RUN RUN ... --out FOLDER",
    ),
    _row(
        "greedy_soup",
        "Wortsman et al., ICML 2022, arXiv 2203.05482",
        2022,
        "The mean of those finished runs that do not lower the accuracy on held-out images.",
        "n runs",
        "held-out images",
        "tracerft merge greedy_soup RUN RUN ... --out FOLDER",
    ),
    _row(
        "model_stock",
        "Jang, Yun, Han, ECCV 2024, arXiv 2403.19522",
        2024,
        "Two runs and the pretrained model, merged tensor by tensor by the angle between the runs; once, or by rounds.",
        "2 runs",
        "none",
        "tracerft merge model_stock RUN RUN --out FOLDER",
    ),
    _row(
        "tpgm",
        "Tian, Dai, Ma, He, Liu, Kira, CVPR 2023, arXiv 2303.10720",
        2023,
        "A finished run, every tensor projected to a radius around the pretrained one, learned on held-out images.",
        "1 run, 200 small batches",
        "held-out images",
        "tracerft merge tpgm RUN --out FOLDER",
    ),
    _row(
        "dawin",
        "Oh, Li, Song, Yun, Han, ICLR 2025, arXiv 2410.03782",
        2025,
        "Transductive: pretrained and finetuned weights mixed for groups of test images by their entropies.",
        "1 run, 3 evaluations",
        "unlabelled test images",
        "tracerft evaluate RUN --dawin",
    ),
)
