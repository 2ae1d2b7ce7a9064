"""Configuration: the training job, its search, and the endpoint."""

DEFAULT_MODEL = "covid-qu-ex"  # a model of the package, by name; it segments where no other is named
