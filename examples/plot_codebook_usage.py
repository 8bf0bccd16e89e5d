"""
Which codewords are used
========================

A part with K codewords that uses a few of them wastes bits. Its *perplexity* says how many it would have if all were
used equally often: K at best, 1 at worst. GiniBatch (equation 6 of the paper) is the term of the objective that spreads
samples over the codewords; its weight is `gini_batch_weight`.
"""

import matplotlib.pyplot as plt
from sklearn.datasets import load_digits

from skdpq import CodebookUsageDisplay, DPQTransformer, ProductQuantizer

X, y = load_digits(return_X_y=True)
M, K = 4, 32

quantizers = {
    "DPQ without GiniBatch": DPQTransformer(M=M, K=K, gini_batch_weight=0, random_state=0).fit(X, y),
    "DPQ": DPQTransformer(M=M, K=K, random_state=0).fit(X, y),
    "PQ": ProductQuantizer(M=M, K=K, random_state=0).fit(X),
}

# %%
# A row is a part, and its codewords are sorted by their use. K-means of PQ makes codewords where samples are many. DPQ
# knows ten classes: without GiniBatch a handful of codewords a part is enough to tell them apart.

fig, axes = plt.subplots(1, 3, figsize=(14, 3.6), layout="constrained")
for ax, (name, quantizer) in zip(axes, quantizers.items(), strict=True):
    display = CodebookUsageDisplay.from_estimator(quantizer, X, ax=ax)
    ax.set_title(f"{name}: mean perplexity {display.perplexity.mean():.1f} of {K}")
    print(f"{name:24}" + "".join(f"{perplexity:8.1f}" for perplexity in display.perplexity))
plt.show()
