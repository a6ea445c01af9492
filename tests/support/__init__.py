"""What the tests share: an oracle that knows nothing of the product, traffic, and real processes to run it through."""
