"""One module per public source: what it holds, under which licence, and how it is read."""
