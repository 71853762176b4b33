"""A row that cannot be gets one clear line."""

import pytest
from mistakes import names, one_line

MISTAKES = [
    # file, old text, new text, what the line must say
    ("config/runs.tsv", "dit-b2-sd-vae\tDiT-B/2\tsd-vae", "dit-b2-sd-vae\tDiT-B/2\t", "autoencoder"),
    ("config/runs.tsv", "DiT-B/2", "DiT-H/2", "model"),
    ("config/runs.tsv", "sd-vae\tno\t400K", "sd-vae\tmaybe\t400K", "repa"),
    ("config/runs.tsv", "name\tmodel", "name\tmodle", "modle: unknown key"),
    ("config/runs.tsv", "dit-b2-reals\tDiT", "dit-b2-sd-vae\tDiT", "names are unique"),
    ("config/runs.tsv", "SiT-B/2\tsd-vae", "SiT-B/3\tsd-vae", "model"),
    ("config/autoencoders.tsv", "large\tyes\tyes\t2\t2e-5", "huge\tyes\tyes\t2\t2e-5", "huge"),
    ("config/autoencoders.tsv", "large\tyes\tyes\t2\t2e-5", "large\tyes\tyes\t2\t-1", "lambda_k"),
    ("config/autoencoders.tsv", "large\tyes\tyes\t2\t2e-5", "large\tyes\tyes\t0\t2e-5", "layers"),
    ("config/autoencoders.tsv", "large\tyes\tyes\t2\t2e-5", "-\tyes\tyes\t2\t2e-5", "needs a teacher"),
    ("config/autoencoders.tsv", "0.1\tvf\t-", "0.1\tva-vae\t-", "align: "),
    ("config/autoencoders.tsv", "large\tyes\tno\t1\t2e-5\t0.1", "-\tyes\tno\t1\t2e-5\t0.1", "alignment (patch or cls = yes) needs a teacher"),
    ("config/autoencoders.tsv", "large\tyes\tno\t1\t2e-5\t0.1", "large\tyes\tyes\t1\t2e-5\t0.1", "align vf projects each latent"),
    ("config/autoencoders.tsv", "large\tyes\tno\t1\t2e-5\t0.1", "large\tno\tno\t1\t2e-5\t0.1", "it takes patch yes, cls no, layers 1"),
    ("config/autoencoders.tsv", "large\tyes\tno\t1\t2e-5\t0.1", "large\tyes\tno\t2\t2e-5\t0.1", "layers 1"),
    ("config/autoencoders.tsv", "no\tno\t-\t2e-5\t0\t-\t-", "no\tno\t-\t2e-5\t0\treals\t-", "align reals aligns patch or cls"),
    ("config/autoencoders.tsv", "-\tno\tno\t-\t2e-5\t0\t-\tyes", "-\tno\tno\t-\t2e-5\t0\t-\t1.5", "equivariance: expected yes, '-' or a share of the steps above 0 and at most 1 (got '1.5')"),
    ("config/autoencoders.tsv", "-\tno\tno\t-\t2e-5\t0\t-\tyes", "-\tno\tno\t-\t2e-5\t0\t-\tnan", "(got 'nan')"),
    ("config/autoencoders.tsv", "base\t-\t-\t-\t-\t-\t-\t-\t-", "base\t-\t-\t-\t-\t-\t-\t-\tyes", "init 'base' is not fine-tuned"),
    ("config/evaluations.tsv", "400K\tddpm\t1\t", "400K\tddim:steps=2000\t1\t", "1000"),
    ("config/evaluations.tsv", "0,0.75", "0.75,0", "interval"),
    ("config/evaluations.tsv", "400K\tsde\t1\t-\t-\t-", "400K\tsde\t1\t0,0.75\tnoise\t-", "cfg 1 is no guidance, so interval and cfg_channels change nothing"),
    ("config/evaluations.tsv", "400K\tsde\t1\t-\t-\t-", "400K\tsde\t1\t-\t-\t3", "cfg 1 is no guidance"),
    ("config/evaluations.tsv", "1.5\t-\t-\t3", "1.5\t-\tnoise\t3", "interval_time noise says what an interval counts, and there is none"),
    ("config/evaluations.tsv", "1.5\t-\t-\t3", "1.5\t-\t-\t-", "cfg_channels"),
    *[
        ("config/evaluations.tsv", "sit-b2-sd-vae\t400K\tsde", f"sit-b2-sd-vae\t400K\t{sampler}", says)
        for sampler, says in [
            ("sd", "sampler.name"), ("ode:form=linear", "form means nothing to ode"), ("sde:form=cubic", "sampler.form"),
            ("sde:forms=linear", "unknown key"), ("sde:steps=1", "sampler.steps"), ("ode:steps=51", "an even number"),
            ("sde:last=none,last_size=0.04", "last=none"), ("heun-sde:last=none", "infinite"), ("sde:last_size=0", "last_size=0"),
            ("dopri5:steps=9", "no settings"), ("sde:norm", "norm"),
            ("ode:steps=2", "expected at least 4, two steps of two"), ("ddim:eta=2", "sampler.eta"),
            ("sde:steps=50,steps=5", "steps stands there twice"), ("sde:name=ode", "name stands there twice"),
        ]
    ],
]  # fmt: skip


@pytest.mark.parametrize(("file", "old", "new", "says"), MISTAKES, ids=names(MISTAKES))
def test_a_mistake_gets_one_line(file, old, new, says, project):
    assert says in one_line(file, old, new)
