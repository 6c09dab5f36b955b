"""The HTTP server: a FastBERT model behind a pool, in the shape that text-embeddings-inference has made common."""
