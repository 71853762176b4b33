"""Numbers about images: feature extractors, ADM's metrics and the paper's, references, and the record of a measurement."""
