"""A deployment on a Kubernetes cluster: released by Helm, observed through the cluster's API."""
