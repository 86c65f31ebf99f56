"""Linear classification of separable data by large steps, on real data."""
