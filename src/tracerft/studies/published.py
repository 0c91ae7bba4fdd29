"""What the paper prints for ViT-B/16 on ImageNet, by our names: to stand beside our numbers, never among them.

From Table 2 (accuracy on ImageNet, and the mean over V2, R, A and Sketch), in percent. The rows come from different
pipelines: some are copied from other papers.
"""

PUBLISHED: dict[str, tuple[float, float]] = {
    "zero_shot": (68.33, 59.46),
    "ce_ft": (82.83, 57.08),
    "l2_sp": (82.87, 57.34),
    "sd_logit": (82.07, 59.55),
    "lp_ft": (82.14, 59.38),
    "flyp": (82.72, 60.61),
    "car_ft": (83.27, 62.98),
    "lipsum_ft": (83.33, 62.70),
    "model_stock": (84.07, 62.40),
    "arf": (82.73, 62.63),
    "carot": (83.16, 64.03),
    "tracer": (82.76, 65.46),
}
