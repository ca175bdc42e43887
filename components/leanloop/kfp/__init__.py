"""The steps as Kubeflow Pipelines components: names, artifacts and parameters, and nothing else."""
