"""FastBERT on many machines, on Ray: `deployment.build` for Ray Serve, `files.predict_files` on Ray Data
(docs/scaling.md).

Nothing is imported here from either, since a worker of one would pay seconds for the other.
"""

try:
    import ray  # noqa: F401
except ModuleNotFoundError as error:
    raise ModuleNotFoundError("fastbert_ray needs Ray: pip install 'fastbert-kernels[ray]'", name="ray") from error
