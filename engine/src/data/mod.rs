//! Datasets in: what stands in `dataset_info.json`, rows as examples, examples as tokens.
