"""The report of a decision: what it is made of, and its forms as a page and as Markdown."""
