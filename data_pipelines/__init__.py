"""Programs that make data sets; run from a checkout as `python -m data_pipelines.<name>`."""
