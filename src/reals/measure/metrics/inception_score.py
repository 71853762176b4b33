"""Inception Score, in the ADM evaluator's definition."""

import torch
from torch import Tensor

from reals.measure.metrics.checks import finite_rows


def inception_score(logits: Tensor, split_size: int = 5000) -> tuple[float, float]:
    """(mean, standard deviation over splits) of exp(E_x KL(p(y|x) || p(y))) for logits [N, K].

    Salimans et al. 2016. Splits are ``split_size`` consecutive rows in file order, a shorter last one
    included, hence one split when N < split_size: so does the ADM evaluator (50,000 samples make 10 splits).
    The score depends on the order: samples sorted by class give a lower one. ADM's logits are pool features
    times the last layer's weights *without* the bias, 1008 classes: torch-fidelity's ``logits_unbiased``. The
    deviation has divisor S, 0 for a single split.
    """
    finite_rows(logits, "logits")
    if split_size < 1:
        raise ValueError(f"inception_score: split_size is {split_size}, expected at least 1")
    scores = []
    for part in logits.split(split_size):
        log_p = part.double().log_softmax(dim=1)
        p = log_p.exp()
        q = p.mean(dim=0)
        mutual_information = (p * log_p).sum(dim=1).mean() - torch.xlogy(q, q).sum()
        scores.append(mutual_information.exp())
    score = torch.stack(scores)
    return float(score.mean()), float(score.std(correction=0))
