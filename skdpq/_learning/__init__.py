"""The learning wing: the DPQ network (section 3), its losses and its training, by PyTorch.

`_base.BaseDPQ` calls it; it imports nothing of the searching wing. It takes and gives arrays on the CPU, and keeps no
state: what is fitted is kept by the estimator.
"""
