"""How a policy answers: the batched sampler, exact divergences, and the worker that holds loaded policies."""
