"""A deployment as files in a Git repository, from which Argo CD or Flux deploys."""
