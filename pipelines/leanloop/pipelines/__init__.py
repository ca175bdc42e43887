"""Where the parts are put together: the pipeline, its local launcher, and the command line."""
