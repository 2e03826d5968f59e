"""The search: rounds of cheap measurements that let a plan grow within its time budget."""
